{{/* Parts that every pod template of the chart shares. */}}

{{/* Where a pod may run. Takes (dict "root" $ "component" NAME "pod" .Values.…). */}}
{{- define "rhizome.scheduling" -}}
topologySpreadConstraints:
  {{- $own := dict "matchLabels" (include "rhizome.selector" . | fromYaml) }}
  {{- $spread := dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway" }}
  {{- range .pod.topologySpreadConstraints | default (list $spread) }}
  - {{- toYaml (hasKey . "labelSelector" | ternary . (merge (dict "labelSelector" $own) .)) | nindent 4 }}
  {{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod. Takes what "rhizome.scheduling" takes. */}}
{{- define "rhizome.podLabels" -}}
{{ include "rhizome.selector" . }}
app.kubernetes.io/part-of: rhizome
{{- with omit (.pod.podLabels | default dict) "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/part-of" }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* PodSecurity `restricted`, pod level. Takes .Values.podSecurity or a component's own. */}}
{{- define "rhizome.podSecurityContext" -}}
runAsNonRoot: true
{{- range $key, $id := . }}
{{- if not (kindIs "invalid" $id) }}
{{ $key }}: {{ int64 $id }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* PodSecurity `restricted`, container level. */}}
{{- define "rhizome.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
The environment that every process of ours shares. Takes (dict "root" $ "pod" .Values.…).
The shared state's URL is put together here, so that the password is in one Secret only.
*/}}
{{- define "rhizome.environment" -}}
- name: HOME
  value: {{ .root.Values.settings.state_directory | quote }}
{{- if .root.Values.valkey.enabled }}
- name: VALKEY_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "rhizome.valkeySecretName" .root | quote }}
      key: {{ .root.Values.valkey.auth.key | quote }}
- name: RHIZOME_REDIS__URL
  value: {{ printf "redis://:$(VALKEY_PASSWORD)@%s-valkey:6379/0" (include "rhizome.fullname" .root) | quote }}
{{- else }}
- name: RHIZOME_REDIS__URL
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.externalRedis.existingSecret | quote }}
      key: {{ .root.Values.externalRedis.key | quote }}
{{- end }}
{{- end -}}

{{- define "rhizome.apiKeysEnvironment" -}}
{{- if include "rhizome.hasApiKeys" . }}
- name: RHIZOME_ROUTER__API_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ include "rhizome.apiKeysSecretName" . | quote }}
      key: {{ .Values.router.apiKeys.key | quote }}
{{- end }}
{{- end -}}

{{/* The router alone: the admin API's key, and where hashes of clients' keys are. */}}
{{- define "rhizome.routerKeysEnvironment" -}}
- name: RHIZOME_ROUTER__ADMIN__KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "rhizome.adminKeySecretName" . | quote }}
      key: {{ .Values.router.adminKey.key | quote }}
{{- if .Values.router.keysFile.existingSecret }}
- name: RHIZOME_ROUTER__KEYS_FILE
  value: {{ printf "/etc/rhizome-keys/%s" .Values.router.keysFile.key | quote }}
{{- end }}
{{- end -}}

{{- define "rhizome.rayEnvironment" -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "rhizome.raySecretName" . | quote }}
      key: auth_token
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- end -}}

{{/* The settings file, and what "rhizome.writableMounts" gives. */}}
{{- define "rhizome.volumeMounts" -}}
- name: settings
  mountPath: /etc/rhizome
  readOnly: true
{{ include "rhizome.writableMounts" . }}
{{- end -}}

{{- define "rhizome.volumes" -}}
- name: settings
  configMap:
    name: {{ printf "%s-settings" (include "rhizome.fullname" .root) | quote }}
{{ include "rhizome.writableVolumes" . }}
{{- end -}}

{{/* A writable state directory and /tmp over a read-only root, and the extra ones. */}}
{{- define "rhizome.writableMounts" -}}
- name: state
  mountPath: {{ .root.Values.settings.state_directory | quote }}
- name: tmp
  mountPath: /tmp
{{- with .pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "rhizome.writableVolumes" -}}
- name: state
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- with .pod.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Restarts a pod of ours when what it reads at its start has changed. */}}
{{- define "rhizome.podAnnotations" -}}
checksum/settings: {{ include (print .root.Template.BasePath "/settings/configmap.yaml") .root | sha256sum }}
{{- with .pod.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
