{{- define "orders.usesGRPC" -}}{{- end -}}

{{- define "orders.usesNATS" -}}
{{- if eq .Values.inventory.wire "nats" }}true{{ end -}}
{{- end -}}

{{- define "orders.inventoryREST" -}}
http://{{ tpl .Values.inventory.name . }}.{{ .Values.inventory.namespace | default .Release.Namespace }}:8080
{{- end -}}

{{/* Inventory's address on the wire. gRPC uses the headless Service, whose DNS name has every replica's address. */}}
{{- define "orders.inventoryURL" -}}
{{- if eq .Values.inventory.wire "nats" }}{{ .Values.nats.url }}
{{- else if eq .Values.inventory.wire "grpc" }}dns:///{{ tpl .Values.inventory.name . }}-headless.{{ .Values.inventory.namespace | default .Release.Namespace }}:8090
{{- else }}{{ include "orders.inventoryREST" . }}{{ end -}}
{{- end -}}

{{- define "orders.env" -}}
- name: ORDERS_INVENTORY_WIRE
  value: {{ .Values.inventory.wire }}
- name: ORDERS_INVENTORY_URL
  value: {{ include "orders.inventoryURL" . | quote }}
# For `orders audit` in this container.
- name: ORDERS_AUDIT_INVENTORY_URL
  value: {{ include "orders.inventoryREST" . | quote }}
{{- end -}}

{{- define "orders.check" -}}
- check
- --url=http://{{ include "common.fullname" . }}:8080
{{- end -}}

{{- define "orders.callers" -}}{{- end -}}

{{/* What orders may reach. It always needs REST, because `orders audit` lists reservations over it. */}}
{{- define "orders.asks" -}}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: inventory
          app.kubernetes.io/part-of: roundtrip
      {{- with .Values.inventory.namespace }}
      namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . | quote }}
      {{- end }}
  ports:
    - port: 8080
    {{- if eq .Values.inventory.wire "grpc" }}
    - port: 8090
    {{- end }}
{{- end -}}

{{- define "orders.alerts" -}}
{{- $s := include "common.series" . -}}
- alert: RoundtripAlarm
  # The second part counts new series. increase() ignores the first value of a series.
  expr: |-
    sum by (reason) (increase(roundtrip_alarms_total{ {{- $s -}} }[10m])) > 0
      or sum by (reason) (roundtrip_alarms_total{ {{- $s -}} } unless roundtrip_alarms_total{ {{- $s -}} } offset 10m) > 0
  labels: {severity: critical, service: orders}
  annotations:
    summary: Inventory's answer leaves an operation unsettled, and a repeat will not help. See docs/operations.md.
- alert: RoundtripUnsettled
  expr: max(orders_oldest_intent_age_seconds{ {{- $s -}} }) > 60
  for: 1m
  labels: {severity: critical, service: orders}
  annotations:
    summary: An operation has not settled for more than a minute. Is inventory ready? If it is, look at the alarms.
- alert: RoundtripBacklogGrows
  # Compares the minimum of the last 5 minutes with the maximum of an earlier 5 minutes, so operations in flight do not
  # count. Every replica reports the number of all operations.
  expr: |-
    min(min_over_time(orders_intents_unsettled{ {{- $s -}} }[5m]))
      > max(max_over_time(orders_intents_unsettled{ {{- $s -}} }[5m] offset 10m))
  for: 10m
  labels: {severity: warning, service: orders}
  annotations:
    summary: The number of unsettled operations grows. Is inventory ready, and fast enough?
{{- end -}}

{{- define "orders.panels" -}}
{{- $s := include "common.series" . -}}
- title: Exchanges with inventory per second
  unit: reqps
  queries:
    - legend: {{ "{{operation}} {{outcome}}" | quote }}
      expr: sum by (operation, outcome) (rate(roundtrip_exchanges_total{ {{- $s -}} ,role="caller"}[5m]))
- title: Duration of exchanges with inventory (p99)
  unit: s
  queries:
    - legend: {{ "{{operation}} {{wire}}" | quote }}
      expr: histogram_quantile(0.99, sum by (le, operation, wire) (rate(roundtrip_exchange_duration_seconds_bucket{ {{- $s -}} ,role="caller"}[5m])))
- title: Unsettled operations
  unit: none
  queries:
    - legend: operations
      expr: max(orders_intents_unsettled{ {{- $s -}} })
- title: Age of the oldest unsettled operation
  unit: s
  queries:
    - legend: age
      expr: max(orders_oldest_intent_age_seconds{ {{- $s -}} })
- title: Requests sent to inventory per second
  unit: reqps
  queries:
    - legend: {{ "{{operation}} resend: {{resend}}" | quote }}
      expr: sum by (operation, resend) (rate(roundtrip_attempts_total{ {{- $s -}} }[5m]))
{{- end -}}
