{{/* The claim stays when the release is removed. */}}
{{- define "common.volumeClaim" -}}
{{- if not (or (include "common.onPostgres" .) .Values.persistence.existingClaim) }}
apiVersion: v1
kind: PersistentVolumeClaim
{{ include "common.metadata" (dict "root" . "name" (include "common.claim" .) "annotations" (dict "helm.sh/resource-policy" "keep")) }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .Values.persistence.storageClass }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .Values.persistence.size }}
{{- end }}
{{- end -}}

{{/*
A Job can't be changed, so its name has a hash of its whole spec. Another image or
Secret makes a new Job; the same spec again changes nothing. The Job is not a hook, so
it runs with every tool that applies the chart. The pods wait for the schema.
*/}}
{{- define "common.migration" -}}
{{- if include "common.onPostgres" . }}
{{- $spec := include "common.migrationSpec" . }}
apiVersion: batch/v1
kind: Job
{{ include "common.metadata" (dict "root" . "name" (printf "%s-migrate-%s" (include "common.fullname" .) ($spec | sha256sum | trunc 10)) "component" "migration") }}
{{ $spec }}
{{- end }}
{{- end -}}

{{- define "common.migrationSpec" -}}
spec:
  backoffLimit: {{ .Values.migration.backoffLimit }}
  template:
    metadata:
      labels:
        {{- merge (dict "app.kubernetes.io/component" "migration") (include "common.selector" . | fromYaml) .Values.podLabels | toYaml | nindent 8 }}
      {{- with .Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "common.pod" . | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: migrate
          {{- include "common.container" . | nindent 10 }}
          args: [migrate, up]
          env:
            {{- include "common.memoryEnv" . | trim | nindent 12 }}
            {{- include "common.databaseEnv" . | trim | nindent 12 }}
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          volumeMounts:
            {{- include "common.databaseMount" . | trim | nindent 12 }}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "common.databaseVolume" . | trim | nindent 8 }}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}
