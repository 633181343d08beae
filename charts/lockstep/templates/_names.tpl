{{- define "lockstep.driver" -}}csi.lockstep.storage{{- end }}

{{- define "lockstep.nodeNamespace" -}}
{{- .Values.nodeNamespace | default (printf "%s-nodes" .Release.Namespace) -}}
{{- end }}

{{- define "lockstep.keySecret" -}}
{{- .Values.key.existingSecret | default "lockstep-key" -}}
{{- end }}

{{/* Image of a component: (list root component). */}}
{{- define "lockstep.image" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $own := index $root.Values $component -}}
{{- printf "%s/%s:%s" $root.Values.image.registry $component ($own.image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion) -}}
{{- end }}

{{/* Labels of every object of a component: (list root component). */}}
{{- define "lockstep.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: lockstep
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* What pods of a component are found by: never changes. */}}
{{- define "lockstep.selector" -}}
app.kubernetes.io/name: lockstep
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{/* Names of accounts as the API server has them: (list root component). */}}
{{- define "lockstep.user" -}}
{{- printf "system:serviceaccount:%s:lockstep-%s" (index . 0).Release.Namespace (index . 1) -}}
{{- end }}

{{/* Directories of pools that do not lie below the state directory: a JSON list. */}}
{{- define "lockstep.poolDirectories" -}}
{{- $all := concat (list .Values.pools.default) (values .Values.pools.nodes) -}}
{{- $directories := .Values.extraPoolDirectories -}}
{{- range $all -}}
{{- with . -}}{{- with .directory -}}{{- $directories = append $directories . -}}{{- end -}}{{- end -}}
{{- end -}}
{{- $outside := list -}}
{{- range $directories | uniq | sortAlpha -}}
{{- if not (hasPrefix (printf "%s/" $.Values.stateDir) .) -}}{{- $outside = append $outside . -}}{{- end -}}
{{- end -}}
{{- toJson $outside -}}
{{- end }}
