{{/*
The pod template of a Ray group. Takes (dict "root" $ "component" "ray-head" "pod" GROUP
"container" NAME "grace" SECONDS). KubeRay turns the container into `ray start …` and adds the token.

No settings here: the controller hands them to the actors, and a change must not end every engine
at once. Probes ask the raylet (on the head: the GCS) for a connection only, because an
engine that loads for half an hour or is busy must not be killed for it.
*/}}
{{- define "rhizome.rayPodTemplate" -}}
{{- $root := .root -}}
{{- $port := ternary "gcs-server" "raylet" (eq .component "ray-head") -}}
metadata:
  labels:
    {{- include "rhizome.podLabels" . | nindent 4 }}
  {{- with .pod.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "rhizome.serviceAccountName" (dict "root" $root "component" "ray" "account" $root.Values.ray.serviceAccount) | quote }}
  # The head's autoscaler sidecar talks to the API server; nothing else here does.
  automountServiceAccountToken: {{ and (eq .component "ray-head") $root.Values.ray.autoscaling.enabled }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .grace }}
  securityContext:
    {{- include "rhizome.podSecurityContext" $root.Values.podSecurity | nindent 4 }}
  {{- include "rhizome.scheduling" . | nindent 2 }}
  containers:
    - name: {{ .container }}
      image: {{ include "rhizome.image" (dict "root" $root "image" $root.Values.ray.image) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        - name: HOME
          value: {{ $root.Values.settings.state_directory | quote }}
        - name: RAY_USAGE_STATS_ENABLED
          value: "0"
        # A worker node outlives a lost head by this long; by default it would end after a minute,
        # and its engines with it, though requests do not need Ray.
        - name: RAY_gcs_rpc_server_reconnect_timeout_s
          value: "86400"
        {{- with .pod.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- if eq .component "ray-head" }}
        - name: gcs-server
          containerPort: 6379
        - name: client
          containerPort: 10001
        {{- end }}
        - name: raylet
          containerPort: 6380
        - name: objects
          containerPort: 6381
        - name: metrics
          containerPort: 8080
      startupProbe:
        tcpSocket: {port: {{ $port }}}
        periodSeconds: 5
        failureThreshold: 360
      livenessProbe:
        tcpSocket: {port: {{ $port }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 12
      readinessProbe:
        tcpSocket: {port: {{ $port }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      resources:
        {{- toYaml .pod.resources | nindent 8 }}
      securityContext:
        {{- include "rhizome.containerSecurityContext" . | nindent 8 }}
      volumeMounts:
        {{- include "rhizome.writableMounts" . | nindent 8 }}
        - name: shared-memory
          mountPath: /dev/shm
  volumes:
    {{- include "rhizome.writableVolumes" . | nindent 4 }}
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ .pod.sharedMemory | default "1Gi" | quote }}
{{- end -}}

{{/* `ray start` flags that the chart owns; fixed ports stay clear of the engines' range. */}}
{{- define "rhizome.rayStartParams" -}}
node-manager-port: "6380"
object-manager-port: "6381"
metrics-export-port: "8080"
min-worker-port: "10002"
max-worker-port: "19999"
{{- end -}}
