{{/* Each chart must define CHART.env, CHART.usesGRPC and CHART.usesNATS. */}}
{{- define "common.deployment" -}}
{{- $prefix := upper .Chart.Name -}}
apiVersion: apps/v1
kind: Deployment
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .) "component" "service") }}
spec:
  {{- if not .Values.autoscaling.enabled }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    {{- if include "common.onPostgres" . }}
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
    {{- else }}
    type: Recreate # only one pod may use an SQLite file
    {{- end }}
  selector:
    matchLabels:
      {{- include "common.servingSelector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "common.allLabels" (dict "root" . "component" "service" "labels" .Values.podLabels) | nindent 8 }}
      {{- with .Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "common.pod" . | nindent 6 }}
      {{- with .Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.topologySpreadConstraints }}
      topologySpreadConstraints:
        {{- range . }}
        - {{ toYaml . | nindent 10 | trim }}
          labelSelector:
            matchLabels:
              {{- include "common.servingSelector" $ | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
        {{- end }}
      {{- end }}
      # The time for the sleep and the drain, and 5 seconds for the process to end.
      terminationGracePeriodSeconds: {{ add .Values.preStopSeconds .Values.drainSeconds 5 }}
      containers:
        - name: {{ .Chart.Name }}
          {{- include "common.container" . | nindent 10 }}
          args: [serve]
          ports:
            - name: http
              containerPort: 8080
            - name: admin
              containerPort: 9090
            {{- if include (printf "%s.usesGRPC" .Chart.Name) . }}
            - name: grpc
              containerPort: 8090
            {{- end }}
          env:
            {{- include "common.memoryEnv" . | trim | nindent 12 }}
            - name: {{ $prefix }}_HTTP_ADDR
              value: ":8080"
            - name: {{ $prefix }}_ADMIN_ADDR
              value: ":9090"
            - name: {{ $prefix }}_LOG_LEVEL
              value: {{ .Values.logLevel }}
            - name: {{ $prefix }}_DRAIN_TIMEOUT
              value: {{ .Values.drainSeconds }}s
            - name: {{ $prefix }}_MAX_IN_FLIGHT
              value: {{ .Values.maxInFlight | int64 | quote }}
            {{- include "common.databaseEnv" . | trim | nindent 12 }}
            {{- with include (printf "%s.env" .Chart.Name) . | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with include "common.natsEnv" . | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          # The service waits for its schema here. After five minutes the kubelet restarts it.
          startupProbe:
            httpGet: {path: /startupz, port: admin}
            periodSeconds: 1
            failureThreshold: 300
          livenessProbe:
            httpGet: {path: /livez, port: admin}
            periodSeconds: 10
            timeoutSeconds: 5
          readinessProbe:
            httpGet: {path: /readyz, port: admin}
            periodSeconds: 5
            timeoutSeconds: 2
          lifecycle:
            # Keep serving until the cluster sends no new requests. Then the service drains.
            preStop:
              sleep: {seconds: {{ .Values.preStopSeconds }}}
          volumeMounts:
            {{- include "common.databaseMount" . | trim | nindent 12 }}
            {{- with include "common.natsMount" . | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "common.databaseVolume" . | trim | nindent 8 }}
        {{- with include "common.natsVolume" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}
