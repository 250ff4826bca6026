{{/* The rules that a component needs where it watches; least privilege, docs/operator.md says why each. */}}

{{- define "octavo.operatorRules" -}}
- apiGroups: [octavo.dev]
  resources: [llmdeployments]
  verbs: [get, list, watch]
- apiGroups: [octavo.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
- apiGroups: [octavo.dev]
  resources: [llmdeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [octavo.dev]
  resources: [groupscales]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "octavo.metricsApiRules" -}}
- apiGroups: [apiregistration.k8s.io]
  resources: [apiservices]
  resourceNames: [v1beta1.custom.metrics.k8s.io, v1beta2.custom.metrics.k8s.io]
  verbs: [get, patch]
{{- end -}}

{{/* Creating cannot be held to a name: here and for the Lease. */}}
{{- define "octavo.certificateRules" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [octavo-metrics-tls]
  verbs: [get, patch]
{{- end -}}

{{- define "octavo.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "octavo.componentName" (dict "root" . "component" "operator") }}]
  verbs: [list, watch, patch]
{{- end -}}

{{- define "octavo.routerRules" -}}
- apiGroups: [octavo.dev]
  resources: [llmdeployments]
  verbs: [list, watch]
- apiGroups: [octavo.dev]
  resources: [llmdeployments/status]
  verbs: [patch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- if .Values.router.apiKeys.enabled }}
# A role cannot be held to a label: the router can read all Secrets where it watches.
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{/* {root, component, rules, namespaces, [suffix]}: a Role in each namespace, or without any one ClusterRole. */}}
{{- define "octavo.access" -}}
{{- $scope := dict "root" .root "component" .component -}}
{{- $name := print (include "octavo.componentName" $scope) (default "" .suffix) -}}
{{- $kind := empty .namespaces | ternary "ClusterRole" "Role" -}}
{{- range $namespace := .namespaces | default (list "") }}
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
