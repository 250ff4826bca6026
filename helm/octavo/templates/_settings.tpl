{{/* The environment of each program: the one place that knows the programs' setting names. */}}

{{- define "octavo.sharedEnv" -}}
- {name: OCTAVO_LOG_LEVEL, value: {{ .Values.logging.level | quote }}}
- {name: OCTAVO_WATCH_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
{{- end -}}

{{- define "octavo.engineImage" -}}
{{- $built := include "octavo.taggedImage" (dict "root" .root "repository" .repository "tag" "") -}}
{{ .override | default $built | quote }}
{{- end -}}

{{- define "octavo.operatorEnv" -}}
{{ include "octavo.sharedEnv" . }}
- {name: OCTAVO_LOG_FORMAT, value: {{ .Values.logging.format | quote }}}
- name: OCTAVO_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: OCTAVO_LEASE, value: {{ include "octavo.componentName" (dict "root" . "component" "operator") | quote }}}
- name: OCTAVO_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: OCTAVO_ENGINE_IMAGE
  value: {{ include "octavo.engineImage" (dict "root" . "override" .Values.engine.image "repository" "octavo-engine") }}
- name: OCTAVO_ENGINE_CUDA_IMAGE
  value: {{ include "octavo.engineImage" (dict "root" . "override" .Values.engine.cudaImage "repository" "octavo-engine-cuda") }}
- {name: OCTAVO_ENGINE_IMAGE_PULL_POLICY, value: {{ .Values.engine.pullPolicy | quote }}}
- {name: OCTAVO_IMAGE_VOLUMES, value: {{ .Values.engine.imageVolumes | quote }}}
- {name: OCTAVO_POD_DEFAULTS, value: /etc/octavo/pod-defaults.yaml}
- {name: OCTAVO_SCALING_DEFAULTS, value: /etc/octavo/scaling-defaults.yaml}
- {name: OCTAVO_NETWORK_ACCESS, value: /etc/octavo/network-access.yaml}
- {name: OCTAVO_METRICS_API, value: {{ .Values.metricsApi.enabled | quote }}}
- {name: OCTAVO_SERVICE_NAME, value: {{ include "octavo.componentName" (dict "root" . "component" "operator") | quote }}}
{{- with .Values.operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "octavo.routerEnv" -}}
{{ include "octavo.sharedEnv" . }}
- {name: OCTAVO_WORKERS, value: {{ .Values.router.workers | quote }}}
- {name: OCTAVO_POLICY, value: {{ .Values.router.policy | quote }}}
- {name: OCTAVO_PAGE, value: {{ .Values.router.page | quote }}}
- {name: OCTAVO_API_KEYS, value: {{ .Values.router.apiKeys.enabled | quote }}}
{{- if .Values.router.apiKeys.enabled }}
- {name: OCTAVO_PEERS, value: {{ printf "%s-admin:8081" (include "octavo.componentName" (dict "root" . "component" "router")) }}}
{{- end }}
- {name: OCTAVO_MAX_BODY_BYTES, value: {{ .Values.router.maxBodyBytes | int64 | quote }}}
- {name: OCTAVO_ACCESS_LOG, value: {{ .Values.router.accessLog | quote }}}
- {name: OCTAVO_TRACE, value: {{ .Values.router.trace | quote }}}
- {name: OCTAVO_LAME_DUCK, value: {{ .Values.router.drain.endpointSeconds | quote }}}
- {name: OCTAVO_DRAIN_TIMEOUT, value: {{ .Values.router.drain.streamSeconds | quote }}}
{{- with .Values.router.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Router and operator, and whom the values add. */}}
{{- define "octavo.networkAccess" -}}
{{- if .Values.networkPolicy.enabled -}}
engineClients:
  {{- range $component := list "router" "operator" }}
  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ $.Release.Namespace }}}}
    podSelector:
      matchLabels:
        {{- include "octavo.selectorLabels" (dict "root" $ "component" $component) | nindent 8 }}
  {{- end }}
  {{- with .Values.networkPolicy.alsoFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- else -}}
engineClients: null
{{- end }}
{{- end -}}

{{/* Every signal is written, as null where it is 0 or was set to null, which Helm leaves out of the values. */}}
{{- define "octavo.scalingDefaults" -}}
{{- $defaults := deepCopy .Values.operator.scalingDefaults -}}
{{- range $signal := list "concurrency" "kvCacheUsage" "queueDepth" -}}
{{- $_ := set $defaults $signal (index $defaults $signal | default nil) -}}
{{- end -}}
{{- if not (or $defaults.concurrency $defaults.kvCacheUsage $defaults.queueDepth) -}}
{{- fail "operator.scalingDefaults switches every signal off, and an HPA without one scales by CPU: set concurrency, kvCacheUsage or queueDepth above 0" -}}
{{- end -}}
{{- toYaml $defaults -}}
{{- end -}}

{{/* The files that the operator reads when it starts: their hash restarts it. */}}
{{- define "octavo.settingsFiles" -}}
pod-defaults.yaml: |
  {{- toYaml .Values.operator.podDefaults | nindent 2 }}
scaling-defaults.yaml: |
  {{- include "octavo.scalingDefaults" . | nindent 2 }}
network-access.yaml: |
  {{- include "octavo.networkAccess" . | nindent 2 }}
{{- end -}}
