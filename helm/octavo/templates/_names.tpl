{{/* Names, labels and image references. */}}

{{/* 63 characters, a Service's most, less those of "-router-admin". */}}
{{- define "octavo.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* {root, component} -> the component's objects' name. */}}
{{- define "octavo.componentName" -}}
{{- printf "%s-%s" (include "octavo.fullname" .root) .component -}}
{{- end -}}

{{- define "octavo.selectorLabels" -}}
app.kubernetes.io/name: octavo-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "octavo.commonLabels" -}}
app.kubernetes.io/part-of: octavo
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "octavo.labels" -}}
{{ include "octavo.selectorLabels" . }}
{{ include "octavo.commonLabels" .root }}
{{- end -}}

{{- define "octavo.serviceAccountName" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- default (include "octavo.componentName" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* {root, repository, tag} -> registry/repository:tag */}}
{{- define "octavo.taggedImage" -}}
{{- $values := .root.Values.image -}}
{{- $tag := .tag | default $values.tag | default .root.Chart.AppVersion -}}
{{- with $values.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository }}:{{ $tag }}
{{- end -}}

{{- define "octavo.componentImage" -}}
{{- $image := (index .root.Values .component).image -}}
{{- $reference := include "octavo.taggedImage" (dict "root" .root "repository" $image.repository "tag" $image.tag) -}}
{{- $reference -}}{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end -}}
