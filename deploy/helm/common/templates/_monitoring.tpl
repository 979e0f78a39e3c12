{{- define "common.serviceMonitor" -}}
{{- if .Values.monitoring.serviceMonitor.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .) "labels" .Values.monitoring.serviceMonitor.labels) }}
spec:
  selector:
    matchLabels:
      {{- include "common.selector" . | nindent 6 }}
  endpoints:
    - port: metrics
      interval: {{ .Values.monitoring.serviceMonitor.interval }}
{{- end }}
{{- end -}}

{{/* The labels of this release's series. The job is the headless Service. */}}
{{- define "common.series" -}}
namespace="{{ .Release.Namespace }}",job="{{ include "common.fullname" . }}-headless"
{{- end -}}

{{/* docs/operations.md says what each alert means and what to do. CHART.alerts adds the chart's own. */}}
{{- define "common.alerts" -}}
{{- if .Values.monitoring.prometheusRule.enabled }}
{{- $s := include "common.series" . }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .) "labels" .Values.monitoring.prometheusRule.labels) }}
spec:
  groups:
    - name: {{ .Release.Namespace }}-{{ include "common.fullname" . }}
      rules:
        - alert: RoundtripAway
          expr: absent(process_start_time_seconds{ {{- $s -}} })
          for: 5m
          labels: {severity: critical, service: {{ .Chart.Name }}}
          annotations:
            summary: Prometheus scrapes no replica of {{ include "common.fullname" . }}. Are its pods running?
        - alert: RoundtripUnavailable
          expr: |-
            sum(rate(roundtrip_exchanges_total{ {{- $s -}} ,role="responder",outcome="unavailable"}[5m]))
              / sum(rate(roundtrip_exchanges_total{ {{- $s -}} ,role="responder"}[5m])) > 0.01
          for: 5m
          labels: {severity: critical, service: {{ .Chart.Name }}}
          annotations:
            summary: More than 1 % of the requests are answered as unavailable. The log says why. Usually the cause is the database.
        - alert: RoundtripSheds
          expr: sum(rate(roundtrip_sheds_total{ {{- $s -}} }[5m])) > 0
          for: 5m
          labels: {severity: warning, service: {{ .Chart.Name }}}
          annotations:
            summary: Requests are refused because too many are in flight. Add replicas, or look for a slow database.
        - alert: RoundtripSlow
          expr: histogram_quantile(0.99, sum by (le) (rate(roundtrip_exchange_duration_seconds_bucket{ {{- $s -}} ,role="responder"}[5m]))) > 1
          for: 10m
          labels: {severity: warning, service: {{ .Chart.Name }}}
          annotations:
            summary: 1 % of the exchanges take more than a second. Look at the database's disk and locks.
        {{- with include (printf "%s.alerts" .Chart.Name) . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end }}
{{- end -}}

{{/* Grafana's sidecar finds it by its label. CHART.panels adds the chart's own panels. */}}
{{- define "common.dashboard" -}}
{{- if .Values.monitoring.dashboard.enabled }}
{{- $source := dict "type" "prometheus" "uid" "${source}" }}
{{- $panels := list }}
{{- range $i, $p := include "common.panels" . | fromYamlArray }}
{{- $targets := list }}
{{- range $p.queries }}
{{- $targets = append $targets (dict "datasource" $source "refId" (printf "Q%d" (len $targets)) "expr" .expr "legendFormat" .legend) }}
{{- end }}
{{- $place := dict "x" (mul 12 (mod $i 2)) "y" (mul 8 (div $i 2)) "w" 12 "h" 8 }}
{{- $panels = append $panels (dict "id" (add1 $i) "type" "timeseries" "title" $p.title "datasource" $source "gridPos" $place "targets" $targets
  "fieldConfig" (dict "defaults" (dict "unit" $p.unit "min" 0) "overrides" list)) }}
{{- end }}
apiVersion: v1
kind: ConfigMap
{{ include "common.metadata" (dict "root" . "name" (printf "%s-dashboard" (include "common.fullname" .)) "labels" .Values.monitoring.dashboard.labels) }}
data:
  {{ .Release.Namespace }}-{{ include "common.fullname" . }}.json: |-
    {{ dict
      "uid" (printf "%s/%s" .Release.Namespace (include "common.fullname" .) | sha256sum | trunc 20)
      "title" (printf "Roundtrip / %s / %s" .Release.Namespace (include "common.fullname" .))
      "tags" (list "roundtrip") "schemaVersion" 39 "editable" false "refresh" "30s" "time" (dict "from" "now-1h" "to" "now")
      "templating" (dict "list" (list (dict "name" "source" "type" "datasource" "query" "prometheus" "label" "Prometheus")))
      "panels" $panels | toPrettyJson | nindent 4 | trim }}
{{- end }}
{{- end -}}

{{- define "common.panels" -}}
{{- $s := include "common.series" . -}}
- title: Exchanges answered per second
  unit: reqps
  queries:
    - legend: {{ printf "{{operation}} %s" "{{wire}} {{outcome}}" | quote }}
      expr: sum by (operation, wire, outcome) (rate(roundtrip_exchanges_total{ {{- $s -}} ,role="responder"}[5m]))
- title: Duration of exchanges (p50, p99)
  unit: s
  queries:
    {{- range list "0.5" "0.99" }}
    - legend: {{ printf "p%s {{wire}}" . | quote }}
      expr: histogram_quantile({{ . }}, sum by (le, wire) (rate(roundtrip_exchange_duration_seconds_bucket{ {{- $s -}} ,role="responder"}[5m])))
    {{- end }}
- title: Requests refused as overloaded, per second
  unit: reqps
  queries:
    - legend: {{ "{{operation}} {{wire}}" | quote }}
      expr: sum by (operation, wire) (rate(roundtrip_sheds_total{ {{- $s -}} }[5m]))
- title: CPU, in cores
  unit: none
  queries:
    - legend: {{ "{{pod}}" | quote }}
      expr: rate(process_cpu_seconds_total{ {{- $s -}} }[5m])
- title: Memory
  unit: bytes
  queries:
    - legend: {{ "{{pod}}" | quote }}
      expr: process_resident_memory_bytes{ {{- $s -}} }
{{- with include (printf "%s.panels" .Chart.Name) . | trim }}
{{ . }}
{{- end }}
{{- end -}}
