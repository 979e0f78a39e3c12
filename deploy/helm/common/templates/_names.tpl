{{/*
The release's name, followed by the chart's name if that is different. Takes release and chart.
It has at most 44 characters, so the migration Job's name has at most 63, the limit for a label of its pod.
*/}}
{{- define "common.nameOf" -}}
{{- if eq .release .chart }}{{ .release }}{{ else }}{{ printf "%s-%s" (trunc (sub 43 (len .chart) | int) .release | trimSuffix "-") .chart }}{{ end -}}
{{- end -}}

{{- define "common.fullname" -}}
{{- .Values.fullnameOverride | default (include "common.nameOf" (dict "release" .Release.Name "chart" .Chart.Name)) -}}
{{- end -}}

{{/* The labels that select all pods of this release of the service, and no others. */}}
{{- define "common.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* The labels that select the pods that serve, without those that migrate or test. */}}
{{- define "common.servingSelector" -}}
{{ include "common.selector" . }}
app.kubernetes.io/component: service
{{- end -}}

{{- define "common.labels" -}}
{{ include "common.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: roundtrip
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* All labels of an object: the chart's and the user's. Takes root, and optionally component and labels. */}}
{{- define "common.allLabels" -}}
{{- $component := dict }}
{{- with .component }}{{ $component = dict "app.kubernetes.io/component" . }}{{ end -}}
{{- merge $component (include "common.labels" .root | fromYaml) (.labels | default dict) .root.Values.labels | toYaml -}}
{{- end -}}

{{/* The metadata of an object. Takes root and name, and optionally component, labels and annotations. */}}
{{- define "common.metadata" -}}
{{- $annotations := merge (dict) (.annotations | default dict) .root.Values.annotations -}}
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "common.allLabels" . | nindent 4 }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "common.image" -}}
{{- with .Values.global.imageRegistry | default .Values.image.registry }}{{ . }}/{{ end -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "common.onPostgres" -}}
{{- if eq .Values.database.kind "postgres" }}true{{ end -}}
{{- end -}}

{{- define "common.claim" -}}
{{- .Values.persistence.existingClaim | default (include "common.fullname" .) -}}
{{- end -}}

{{- define "common.tlsSecret" -}}
{{- if or .Values.tls.secretName .Values.tls.certificate.enabled -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "common.fullname" .)) -}}
{{- end -}}
{{- end -}}
