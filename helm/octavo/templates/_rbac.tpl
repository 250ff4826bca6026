{{/* The rules that a component needs where it watches; least privilege, docs/operator.md says why each. */}}

{{- define "octavo.operatorRules" -}}
- apiGroups: [octavo.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [octavo.dev]
  resources: [llmdeployments/status]
  verbs: [get, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "octavo.routerRules" -}}
- apiGroups: [octavo.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end -}}

{{/* {root, component, rules}: one ClusterRole, or a Role in each watched namespace. */}}
{{- define "octavo.watchAccess" -}}
{{- $scope := dict "root" .root "component" .component -}}
{{- $name := include "octavo.componentName" $scope -}}
{{- $kind := empty .root.Values.watchNamespaces | ternary "ClusterRole" "Role" -}}
{{- range $namespace := .root.Values.watchNamespaces | default (list "") }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "octavo.labels" $scope | nindent 4 }}
rules:
  {{- $.rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "octavo.labels" $scope | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
  - kind: ServiceAccount
    name: {{ include "octavo.serviceAccountName" $scope }}
    namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- end -}}
