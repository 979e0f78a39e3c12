{{- define "common.autoscaler" -}}
{{- if .Values.autoscaling.enabled }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas may be at most autoscaling.maxReplicas" }}
{{- end }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .)) }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "common.fullname" . }}
  minReplicas: {{ .Values.autoscaling.minReplicas }}
  maxReplicas: {{ .Values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .Values.autoscaling.cpuPercent }}
{{- end }}
{{- end -}}

{{/*
A single replica has no budget, because the budget would only stop its node from
being drained. The name differs from the Service's, because CloudNativePG uses that
name for the budget of its Cluster.
*/}}
{{- define "common.disruptionBudget" -}}
{{- if and .Values.podDisruptionBudget.enabled (or .Values.autoscaling.enabled (gt (int .Values.replicas) 1)) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "common.metadata" (dict "root" . "name" (printf "%s-service" (include "common.fullname" .))) }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "common.servingSelector" . | nindent 6 }}
{{- end }}
{{- end -}}
