{{/* The pod of `helm test`. Its arguments come from CHART.check. */}}
{{- define "common.test" -}}
{{- $check := include (printf "%s.check" .Chart.Name) . | trim -}}
{{- $nats := contains "--nats-url" $check -}}
apiVersion: v1
kind: Pod
{{ include "common.metadata" (dict "root" . "name" (printf "%s-test" (include "common.fullname" .)) "component" "test"
  "annotations" (dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded") "labels" .Values.podLabels) }}
spec:
  {{- include "common.pod" . | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: check
      {{- include "common.container" . | nindent 6 }}
      args:
        {{- $check | nindent 8 }}
      {{- with concat (include "common.memoryEnv" . | fromYamlArray) (ternary (include "common.natsEnv" .) "" $nats | fromYamlArray) .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with concat (ternary (include "common.natsMount" .) "" $nats | fromYamlArray) .Values.extraVolumeMounts }}
      volumeMounts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- with concat (ternary (include "common.natsVolume" .) "" $nats | fromYamlArray) .Values.extraVolumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* More objects of the release: objects, or texts that are templates of objects. */}}
{{- define "common.extraObjects" -}}
{{- range .Values.extraObjects }}
---
{{ if kindIs "string" . }}{{ tpl . $ }}{{ else }}{{ toYaml . }}{{ end }}
{{- end }}
{{- end -}}

{{/* All objects of a service. */}}
{{- define "common.all" -}}
{{- range list "deployment" "volumeClaim" "migration" "service" "ingress" "httpRoute" "certificate" "networkPolicy" "autoscaler" "disruptionBudget" "serviceMonitor" "alerts" "dashboard" "test" }}
{{- with include (printf "common.%s" .) $ | trim }}
---
{{ . }}
{{- end }}
{{- end }}
{{- include "common.extraObjects" . }}
{{- end -}}
