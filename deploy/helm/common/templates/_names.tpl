{{/* The release's name, and the chart's where that is another one. Takes release and chart. */}}
{{- define "common.nameOf" -}}
{{- if eq .release .chart }}{{ .release }}{{ else }}{{ printf "%s-%s" .release .chart | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- define "common.fullname" -}}
{{- .Values.fullnameOverride | default (include "common.nameOf" (dict "release" .Release.Name "chart" .Chart.Name)) -}}
{{- end -}}

{{/* What every pod of this release of the service has, and nothing else. */}}
{{- define "common.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The pods that serve, and not those that migrate or test. */}}
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
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The metadata of every object. Takes root and name, and where they apply component and annotations. */}}
{{- define "common.metadata" -}}
{{- $annotations := merge (dict) (.annotations | default dict) .root.Values.annotations -}}
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "common.labels" .root | nindent 4 }}
    {{- with .component }}
    app.kubernetes.io/component: {{ . }}
    {{- end }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
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
