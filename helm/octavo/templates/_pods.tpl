{{/* What the operator's and the router's pods have in common; each takes {root, component}. */}}

{{- define "octavo.podMetadata" -}}
{{- $part := index .root.Values .component -}}
labels:
  {{- include "octavo.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/part-of: octavo
  {{- with mergeOverwrite (deepCopy .root.Values.commonLabels) $part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (deepCopy (default dict .annotations)) $part.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "octavo.podPlacement" -}}
{{- $part := index .root.Values .component -}}
serviceAccountName: {{ include "octavo.serviceAccountName" . }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- with $part.affinity }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "octavo.selectorLabels" $ | nindent 14 }}
  {{- end }}
{{- with $part.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 | trim }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "octavo.selectorLabels" $ | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "octavo.containerBase" -}}
{{- $part := index .root.Values .component -}}
name: {{ .component }}
image: {{ include "octavo.componentImage" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml $part.resources | nindent 2 }}
{{- end -}}
