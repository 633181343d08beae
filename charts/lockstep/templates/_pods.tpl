{{- define "lockstep.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Environment of every program of ours. */}}
{{- define "lockstep.logEnvironment" -}}
- name: LOCKSTEP_LOG
  value: {{ .Values.log.filter | quote }}
- name: LOCKSTEP_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- end }}

{{- define "lockstep.nodeName" -}}
- name: LOCKSTEP_NODE
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- end }}

{{/* What a program that works on devices of the node is given. */}}
{{- define "lockstep.privileged" -}}
privileged: true
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
{{- end }}

{{/* Where a pod of a DaemonSet runs: the same nodes for all three. */}}
{{- define "lockstep.everyNode" -}}
nodeSelector:
  kubernetes.io/os: linux
  {{- with .Values.node.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.node.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The node's directories that agent and engine both see, with the same paths as on the node. */}}
{{- define "lockstep.storageVolumes" -}}
- name: state
  hostPath:
    path: {{ .Values.stateDir }}
    type: DirectoryOrCreate
- name: dev
  hostPath:
    path: /dev
    type: Directory
- name: sys
  hostPath:
    path: /sys
    type: Directory
- name: run
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- range $number, $directory := include "lockstep.poolDirectories" . | fromJsonArray }}
- name: pool-{{ $number }}
  hostPath:
    path: {{ $directory }}
    type: DirectoryOrCreate
{{- end }}
{{- end }}

{{- define "lockstep.storageMounts" -}}
- name: state
  mountPath: {{ .Values.stateDir }}
  mountPropagation: Bidirectional
- name: dev
  mountPath: /dev
- name: sys
  mountPath: /sys
- name: run
  mountPath: /run
- name: tmp
  mountPath: /tmp
{{- range $number, $directory := include "lockstep.poolDirectories" . | fromJsonArray }}
- name: pool-{{ $number }}
  mountPath: {{ $directory }}
  mountPropagation: HostToContainer
{{- end }}
{{- end }}
