{{/* Labels that select Pods. Takes the component. They never change, because a Deployment's selector cannot change. */}}
{{- define "harbor-pilot.selector" -}}
app.kubernetes.io/name: harbor-pilot
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Labels of every object. Takes (list $ component); the component is empty for objects of both. */}}
{{- define "harbor-pilot.labels" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
app.kubernetes.io/name: harbor-pilot
{{- with $component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "harbor-pilot.image" -}}
{{- $image := .Values.image -}}
{{- $registry := .Values.global.imageRegistry | default $image.registry -}}
{{- $name := empty $registry | ternary $image.repository (printf "%s/%s" $registry $image.repository) -}}
{{- if $image.digest -}}
{{- $name }}{{ with $image.tag }}:{{ . }}{{ end }}@{{ $image.digest }}
{{- else -}}
{{- $name }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The Secret with the serving certificate. */}}
{{- define "harbor-pilot.certificateSecret" -}}
{{- if eq .Values.certificates.source "provided" -}}
{{- required "certificates.provided.secretName: with certificates.source=provided, name the Secret with tls.crt and tls.key" .Values.certificates.provided.secretName -}}
{{- else -}}
harbor-pilot-webhook-tls
{{- end -}}
{{- end }}

{{/* The start of the Pod spec of both processes. Takes (list $ component). */}}
{{- define "harbor-pilot.podSpec" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $.Values $component -}}
serviceAccountName: harbor-pilot-{{ $component }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with concat $.Values.global.imagePullSecrets $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with $.Values.podSecurityContext }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $selector := include "harbor-pilot.selector" $component | fromYaml }}
  - {{- merge (deepCopy .) (dict "labelSelector" (dict "matchLabels" $selector) "matchLabelKeys" (list "pod-template-hash")) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The common parts of the container of both processes. Takes (list $ component). */}}
{{- define "harbor-pilot.container" -}}
{{- $ := index . 0 -}}
{{- $values := index $.Values (index . 1) -}}
image: {{ include "harbor-pilot.image" $ | quote }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
env:
  - name: POD_NAMESPACE
    valueFrom:
      fieldRef:
        apiVersion: v1
        fieldPath: metadata.namespace
  - name: POD_NAME
    valueFrom:
      fieldRef:
        apiVersion: v1
        fieldPath: metadata.name
  - name: HARBOR_PILOT_LOG
    value: {{ $.Values.logs.level | quote }}
  {{- if eq (index . 1) "webhook" }}
  # Memory is allocated when it is needed, and returned at once.
  - name: MIMALLOC_ARENA_EAGER_COMMIT
    value: "0"
  - name: MIMALLOC_PURGE_DELAY
    value: "0"
  {{- end }}
  {{- with $.Values.tracing.otlpEndpoint }}
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ . | quote }}
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources:
  {{- toYaml $values.resources | nindent 2 }}
{{- /* Neither depends on Harbor or on the API server: a restart would not help. */}}
startupProbe:
  httpGet:
    path: /healthz
    port: ops
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: ops
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: ops
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- /* The namespaces whose Pods reach admission, as a label selector: the webhook configurations and the controller share it. */}}
{{- define "harbor-pilot.admittedNamespaces" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values:
      {{- concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toYaml | nindent 6 }}
  {{- with .Values.webhook.namespaceSelector.matchExpressions }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.webhook.namespaceSelector.matchLabels }}
matchLabels:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
