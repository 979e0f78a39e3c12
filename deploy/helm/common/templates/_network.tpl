{{- define "common.service" -}}
apiVersion: v1
kind: Service
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .) "annotations" .Values.service.annotations) }}
spec:
  type: {{ .Values.service.type }}
  selector:
    {{- include "common.servingSelector" . | nindent 4 }}
  ports:
    - name: http
      port: 8080
      targetPort: http
      appProtocol: http
    {{- if include (printf "%s.usesGRPC" .Chart.Name) . }}
    - name: grpc
      port: 8090
      targetPort: grpc
      appProtocol: kubernetes.io/h2c
    {{- end }}
---
# Its DNS name has every pod's address. gRPC clients use it to spread requests, and Prometheus to find pods.
apiVersion: v1
kind: Service
{{ include "common.metadata" (dict "root" . "name" (printf "%s-headless" (include "common.fullname" .))) }}
spec:
  clusterIP: None
  selector:
    {{- include "common.servingSelector" . | nindent 4 }}
  ports:
    {{- if include (printf "%s.usesGRPC" .Chart.Name) . }}
    - name: grpc
      port: 8090
      targetPort: grpc
      appProtocol: kubernetes.io/h2c
    {{- end }}
    - name: metrics
      port: 9090
      targetPort: admin
      appProtocol: http
{{- end -}}

{{- define "common.ingress" -}}
{{- if .Values.ingress.enabled }}
apiVersion: networking.k8s.io/v1
kind: Ingress
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .) "annotations" .Values.ingress.annotations) }}
spec:
  {{- with .Values.ingress.className }}
  ingressClassName: {{ . | quote }}
  {{- end }}
  {{- with include "common.tlsSecret" . }}
  tls:
    - secretName: {{ . | quote }}
      hosts:
        {{- toYaml $.Values.hosts | nindent 8 }}
  {{- end }}
  rules:
    {{- range .Values.hosts }}
    - host: {{ . | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ include "common.fullname" $ }}
                port:
                  name: http
    {{- end }}
{{- end }}
{{- end -}}

{{- define "common.httpRoute" -}}
{{- if .Values.httpRoute.enabled }}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .) "annotations" .Values.httpRoute.annotations) }}
spec:
  parentRefs:
    {{- toYaml .Values.httpRoute.parentRefs | nindent 4 }}
  {{- with .Values.hosts }}
  hostnames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    # The API's defaults, written out so that tools that compare find no difference.
    - matches:
        - path: {type: PathPrefix, value: /}
      backendRefs:
        - group: ""
          kind: Service
          name: {{ include "common.fullname" . }}
          port: 8080
          weight: 1
{{- end }}
{{- end -}}

{{- define "common.certificate" -}}
{{- if .Values.tls.certificate.enabled }}
apiVersion: cert-manager.io/v1
kind: Certificate
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .)) }}
spec:
  secretName: {{ include "common.tlsSecret" . | quote }}
  issuerRef:
    {{- toYaml .Values.tls.certificate.issuerRef | nindent 4 }}
  dnsNames:
    {{- toYaml .Values.hosts | nindent 4 }}
{{- end }}
{{- end -}}

{{/*
Lists who may reach the pods and what the pods may reach. All other traffic is
refused. It applies to the pods that migrate and test too. Probes come from the
node, and no policy blocks them.
*/}}
{{- define "common.networkPolicy" -}}
{{- if .Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{{ include "common.metadata" (dict "root" . "name" (include "common.fullname" .)) }}
spec:
  podSelector:
    matchLabels:
      {{- include "common.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - podSelector: # this release's own test
            matchLabels:
              {{- include "common.selector" . | nindent 14 }}
        {{- with include (printf "%s.callers" .Chart.Name) . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        {{- include "common.wirePorts" . | nindent 8 }}
    {{- with .Values.networkPolicy.namespaces }}
    - from:
        {{- range . }}
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ . | quote }}
        {{- end }}
      ports:
        - port: http
    {{- end }}
    {{- with .Values.networkPolicy.metricsNamespaces }}
    - from:
        {{- range . }}
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ . | quote }}
        {{- end }}
      ports:
        - port: admin
    {{- end }}
    {{- with .Values.networkPolicy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    - ports: # DNS
        - port: 53
          protocol: UDP
        - port: 53
          protocol: TCP
    - to:
        - podSelector: # this release's own test
            matchLabels:
              {{- include "common.selector" . | nindent 14 }}
      ports:
        {{- include "common.wirePorts" . | nindent 8 }}
    {{- with include (printf "%s.asks" .Chart.Name) . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if include "common.onPostgres" . }}
    - ports:
        - port: {{ .Values.networkPolicy.database.port }}
      {{- with .Values.networkPolicy.database.to }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- if include (printf "%s.usesNATS" .Chart.Name) . }}
    - ports:
        - port: {{ .Values.networkPolicy.nats.port }}
      {{- with .Values.networkPolicy.nats.to }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- with .Values.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "common.wirePorts" -}}
- port: http
{{- if include (printf "%s.usesGRPC" .Chart.Name) . }}
- port: grpc
{{- end }}
{{- end -}}
