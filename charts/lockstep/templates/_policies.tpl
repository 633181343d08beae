{{/* Variable of a policy: the node whose account asks. Tokens that kubelet gives to pods name it; others name none. */}}
{{- define "lockstep.nodeVariable" -}}
- name: node
  expression: >-
    request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')
{{- end }}

{{/* Match condition: the request is of one of these accounts: (list root component...). */}}
{{- define "lockstep.ofAccounts" -}}
{{- $root := first . -}}
{{- $users := list -}}
{{- range rest . -}}{{- $users = append $users (printf "'%s'" (include "lockstep.user" (list $root .))) -}}{{- end -}}
- name: of-accounts
  expression: request.userInfo.username in [{{ join ", " $users }}]
{{- end }}

{{/* A binding: (dict "root" root "name" name "namespace" namespace or "" "pools" true or false). */}}
{{- define "lockstep.policyBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "lockstep.labels" (list .root "policy") | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
  {{- if .pools }}
  paramRef:
    # Every pool; the policy asks about that of the node alone.
    selector: {}
    parameterNotFoundAction: Allow
  {{- end }}
  {{- if .namespace }}
  matchResources:
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .namespace }}
  {{- end }}
{{- end }}
