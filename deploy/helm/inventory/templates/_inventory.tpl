{{- define "inventory.usesGRPC" -}}
{{- if .Values.grpc.enabled }}true{{ end -}}
{{- end -}}

{{- define "inventory.usesNATS" -}}
{{- if .Values.nats.enabled }}true{{ end -}}
{{- end -}}

{{- define "inventory.env" -}}
{{- if .Values.grpc.enabled }}
- name: INVENTORY_GRPC_ADDR
  value: ":8090"
- name: INVENTORY_GRPC_REFLECTION
  value: {{ .Values.grpc.reflection | quote }}
{{- end }}
{{- if .Values.nats.enabled }}
- name: INVENTORY_NATS_URL
  value: {{ .Values.nats.url | quote }}
{{- end }}
{{- end -}}

{{- define "inventory.check" -}}
{{- $name := include "common.fullname" . -}}
- check
- --url=http://{{ $name }}:8080
{{- if .Values.grpc.enabled }}
- --grpc-target=dns:///{{ $name }}-headless:8090
{{- end }}
{{- if .Values.nats.enabled }}
- {{ printf "--nats-url=%s" .Values.nats.url | quote }}
{{- end }}
{{- end -}}

{{/* Who may reach the wires: orders, of any release. */}}
{{- define "inventory.callers" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: orders
      app.kubernetes.io/part-of: roundtrip
  {{- with .Values.networkPolicy.ordersNamespace }}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . | quote }}
  {{- end }}
{{- end -}}

{{- define "inventory.asks" -}}{{- end -}}
{{- define "inventory.alerts" -}}{{- end -}}
{{- define "inventory.panels" -}}{{- end -}}
