{{/* Names, labels and images: one definition each, so that selectors and peers agree. */}}

{{- define "rhizome.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: KubeRay and StatefulSet pods append to it within DNS's 63. */}}
{{- define "rhizome.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "rhizome.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rhizome.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of a resource. Takes (dict "root" $ "component" "router"). */}}
{{- define "rhizome.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
app.kubernetes.io/part-of: rhizome
app.kubernetes.io/name: {{ include "rhizome.name" .root | quote }}
{{ include "rhizome.selector" . }}
{{- end -}}

{{/*
What selects a component's pods. `app.kubernetes.io/name` is not part of it: KubeRay sets its own
on Ray pods, and the head's Service selects by it.
*/}}
{{- define "rhizome.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- end -}}

{{- define "rhizome.image" -}}
{{- $tag := default .root.Chart.AppVersion .image.tag -}}
{{- with .root.Values.image.registry -}}{{ . | trimSuffix "/" }}/{{- end -}}
{{ .image.repository }}:{{ $tag }}
{{- end -}}

{{/* The ServiceAccount's name. Takes (dict "root" $ "component" "router" "account" .Values.…). */}}
{{- define "rhizome.serviceAccountName" -}}
{{- if .account.create -}}
{{- default (printf "%s-%s" (include "rhizome.fullname" .root) .component) .account.name -}}
{{- else -}}
{{- default "default" .account.name -}}
{{- end -}}
{{- end -}}

{{- define "rhizome.rayClusterName" -}}
{{- printf "%s-ray" (include "rhizome.fullname" .) -}}
{{- end -}}

{{- define "rhizome.raySecretName" -}}
{{- default (printf "%s-ray-token" (include "rhizome.fullname" .)) .Values.ray.auth.existingSecret -}}
{{- end -}}

{{- define "rhizome.valkeySecretName" -}}
{{- default (printf "%s-valkey" (include "rhizome.fullname" .)) .Values.valkey.auth.existingSecret -}}
{{- end -}}

{{- define "rhizome.apiKeysSecretName" -}}
{{- default (printf "%s-api-keys" (include "rhizome.fullname" .)) .Values.router.apiKeys.existingSecret -}}
{{- end -}}

{{- define "rhizome.adminKeySecretName" -}}
{{- default (printf "%s-admin-key" (include "rhizome.fullname" .)) .Values.router.adminKey.existingSecret -}}
{{- end -}}

{{/* "true" where clients must present a key. */}}
{{- define "rhizome.hasApiKeys" -}}
{{- if or .Values.router.apiKeys.existingSecret (not .Values.settings.router.allow_anonymous) -}}true{{- end -}}
{{- end -}}

{{- define "rhizome.batchClaimName" -}}
{{- default (printf "%s-batch" (include "rhizome.fullname" .)) .Values.batch.persistence.existingClaim -}}
{{- end -}}

{{/*
A secret that is made once: what the cluster already holds is kept on upgrade.
Takes (dict "root" $ "name" NAME "key" KEY); gives the plain text.
*/}}
{{- define "rhizome.keptSecret" -}}
{{- $held := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if and $held $held.data (hasKey $held.data .key) -}}
{{- index $held.data .key | b64dec -}}
{{- else -}}
{{- randAlphaNum 40 -}}
{{- end -}}
{{- end -}}
