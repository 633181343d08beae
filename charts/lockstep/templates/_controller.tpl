{{/* What the controller reads: config.yaml. */}}
{{- define "lockstep.config" -}}
{{- $pools := dict "default" .Values.pools.default "nodes" .Values.pools.nodes "nodeSelector" .Values.pools.nodeSelector -}}
{{- $config := dict "pools" $pools "overcommit" .Values.controller.overcommit "changeMembers" .Values.controller.changeMembers -}}
{{- $config = merge $config (dict "replaceAfter" .Values.controller.replaceAfter "failOver" .Values.controller.failOver) -}}
{{- $guard := dict "enabled" .Values.drainGuard.enabled -}}
{{- if .Values.drainGuard.enabled -}}
{{- $guard = merge $guard (dict "deployment" "lockstep-controller" "pod" (include "lockstep.guardPod" . | fromYaml)) -}}
{{- end -}}
{{- $config = merge $config (dict "drainGuard" $guard) -}}
{{- toYaml $config -}}
{{- end }}

{{/* What the controller makes a node's guard pod from. It adds where it runs. */}}
{{- define "lockstep.guardPod" -}}
serviceAccountName: lockstep-guard
automountServiceAccountToken: false
{{- include "lockstep.pullSecrets" . }}
priorityClassName: {{ .Values.drainGuard.priorityClassName }}
terminationGracePeriodSeconds: 5
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
# It stays on a node that is ill; of those that keep new pods away, it need not know: it is put on its node.
tolerations:
  - {operator: Exists, effect: NoExecute}
containers:
  - name: guard
    image: {{ include "lockstep.image" (list . "controller") }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [guard]
    securityContext:
      {{- include "lockstep.confined" . | nindent 6 }}
    resources:
      {{- toYaml .Values.drainGuard.resources | nindent 6 }}
{{- end }}

{{/* A program that needs nothing of its node. */}}
{{- define "lockstep.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "lockstep.controllerProbes" -}}
startupProbe:
  httpGet: {port: health, path: /healthz}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {port: health, path: /healthz}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {port: health, path: /readyz}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end }}

{{/* What provisioner and resizer are both told: another takes over within seconds of the leader's end. */}}
{{- define "lockstep.sidecarArguments" -}}
- --timeout=60s
- --leader-election
- --leader-election-lease-duration=6s
- --leader-election-renew-deadline=4s
- --leader-election-retry-period=1s
- --kube-api-qps=50
- --kube-api-burst=100
{{- end }}
