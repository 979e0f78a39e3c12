{{/* The settings that the pods that serve, migrate and test share. */}}
{{- define "common.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false # they would set variables that begin like the service's own
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with concat .Values.image.pullSecrets .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "common.container" -}}
image: {{ include "common.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

{{/* 90 percent of the memory limit. Near it Go collects garbage more often, so the pod is not killed. */}}
{{- define "common.memoryEnv" -}}
{{- with (.Values.resources.limits).memory }}
{{- $mebibytes := regexFind "^[0-9]+" . | int64 | mul (ternary 1024 1 (hasSuffix "Gi" .)) }}
- name: GOMEMLIMIT
  value: {{ printf "%dMiB" (div (mul $mebibytes 9) 10) | quote }}
{{- end }}
{{- end -}}

{{/* Where the database is. */}}
{{- define "common.databaseEnv" -}}
{{- $prefix := upper .Chart.Name }}
{{- if include "common.onPostgres" . }}
- name: {{ $prefix }}_DATABASE_FILE
  value: /etc/roundtrip/database/uri
- name: {{ $prefix }}_DATABASE_CONNECTIONS
  value: {{ .Values.database.connections | int64 | quote }}
{{- else }}
- name: {{ $prefix }}_DATABASE
  value: sqlite:/data/{{ .Chart.Name }}.db
{{- end }}
{{- end -}}

{{/* Mounts folders, because a single mounted file does not change when its Secret changes. */}}
{{- define "common.databaseMount" -}}
{{- if include "common.onPostgres" . }}
- name: database
  mountPath: /etc/roundtrip/database
  readOnly: true
{{- else }}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
{{- end }}
{{- end -}}

{{- define "common.databaseVolume" -}}
{{- if include "common.onPostgres" . }}
- name: database
  secret:
    secretName: {{ .Values.database.secret.name | default (printf "%s-app" (include "common.fullname" .)) | quote }}
    defaultMode: 0440
    items:
      - key: {{ .Values.database.secret.key | quote }}
        path: uri
{{- else }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "common.claim" . | quote }}
- name: tmp # SQLite sorts here if the data does not fit into memory
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* NATS, if CHART.usesNATS says that the chart uses it. */}}
{{- define "common.natsEnv" -}}
{{- if and (include (printf "%s.usesNATS" .Chart.Name) .) .Values.nats.credentialsSecret.name }}
- name: {{ upper .Chart.Name }}_NATS_CREDENTIALS
  value: /etc/roundtrip/nats/nats.creds
{{- end }}
{{- end -}}

{{- define "common.natsMount" -}}
{{- if and (include (printf "%s.usesNATS" .Chart.Name) .) .Values.nats.credentialsSecret.name }}
- name: nats
  mountPath: /etc/roundtrip/nats
  readOnly: true
{{- end }}
{{- end -}}

{{- define "common.natsVolume" -}}
{{- if and (include (printf "%s.usesNATS" .Chart.Name) .) .Values.nats.credentialsSecret.name }}
- name: nats
  secret:
    secretName: {{ .Values.nats.credentialsSecret.name | quote }}
    defaultMode: 0440
    items:
      - key: {{ .Values.nats.credentialsSecret.key | quote }}
        path: nats.creds
{{- end }}
{{- end -}}
