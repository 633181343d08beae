{{/* What the controller reads: config.yaml. */}}
{{- define "lockstep.config" -}}
{{- $pools := dict "default" .Values.pools.default "nodes" .Values.pools.nodes "nodeSelector" .Values.pools.nodeSelector -}}
{{- $config := dict "pools" $pools "overcommit" .Values.controller.overcommit "changeMembers" .Values.controller.changeMembers -}}
{{- $config = merge $config (dict "replaceAfter" .Values.controller.replaceAfter "failOver" .Values.controller.failOver) -}}
{{- toYaml $config -}}
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
