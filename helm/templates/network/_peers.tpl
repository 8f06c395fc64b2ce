{{/* A peer: the pods of one component of this release. Takes (dict "root" $ "component" NAME). */}}
{{- define "rhizome.peer" -}}
podSelector:
  matchLabels:
    {{- include "rhizome.selector" . | nindent 4 }}
{{- end -}}

{{/* Ray's pods, head and workers. */}}
{{- define "rhizome.rayPeers" -}}
- {{ include "rhizome.peer" (dict "root" . "component" "ray-head") | nindent 2 | trim }}
- {{ include "rhizome.peer" (dict "root" . "component" "ray-worker") | nindent 2 | trim }}
{{- end -}}

{{/* Egress to the shared state, wherever it is. */}}
{{- define "rhizome.egressToRedis" -}}
{{- if .Values.valkey.enabled }}
- to:
    - {{ include "rhizome.peer" (dict "root" . "component" "valkey") | nindent 6 | trim }}
  ports:
    - {protocol: TCP, port: 6379}
{{- else }}
- ports:
    - {protocol: TCP, port: {{ .Values.externalRedis.port }}}
{{- end }}
{{- end -}}

{{/* Egress for model files: a hub over HTTPS. */}}
{{- define "rhizome.egressToHub" -}}
{{- if .Values.networkPolicy.modelDownloads }}
- ports:
    - {protocol: TCP, port: 443}
{{- end }}
{{- end -}}
