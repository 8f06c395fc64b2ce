{{/*
What the schema cannot say: values that contradict each other. Included once, by the ConfigMap that
every install renders. Each message names the path.
*/}}
{{- define "rhizome.checks" -}}
{{- include "rhizome.checks.redis" . -}}
{{- include "rhizome.checks.settings" . -}}
{{- include "rhizome.checks.ray" . -}}
{{- include "rhizome.checks.router" . -}}
{{- include "rhizome.checks.models" . -}}
{{- end -}}

{{- define "rhizome.checks.redis" -}}
{{- $external := not (empty .Values.externalRedis.existingSecret) -}}
{{- if and .Values.valkey.enabled $external -}}
{{- fail "valkey.enabled and externalRedis.existingSecret are both set: shared state lives in one place. Set valkey.enabled=false to use your own server." -}}
{{- end -}}
{{- if not (or .Values.valkey.enabled $external) -}}
{{- fail "valkey.enabled is false and externalRedis.existingSecret is empty: name a Secret that holds the URL of your server (key externalRedis.key), or set valkey.enabled=true." -}}
{{- end -}}
{{- end -}}

{{- define "rhizome.checks.settings" -}}
{{- $settings := .Values.settings -}}
{{- range list "router.port" "router.metrics_port" "controller.metrics_port" -}}
{{- $path := splitList "." . -}}
{{- if not (dig (index $path 0) (index $path 1) 0 $settings) -}}
{{- fail (printf "settings.%s must be a port between 1 and 65535: the chart opens it." .) -}}
{{- end -}}
{{- end -}}
{{- if eq (int $settings.router.port) (int $settings.router.metrics_port) -}}
{{- fail "settings.router.port and settings.router.metrics_port are the same port." -}}
{{- end -}}
{{- range list "router.shutdown_grace_s" "worker.drain_grace_s" "batch.directory" -}}
{{- $path := splitList "." . -}}
{{- if not (dig (index $path 0) (index $path 1) "" $settings) -}}
{{- fail (printf "settings.%s must be set: the chart reads it." .) -}}
{{- end -}}
{{- end -}}
{{- if not (hasPrefix "/" (default "" $settings.state_directory)) -}}
{{- fail "settings.state_directory must be an absolute path: a writable volume is mounted there." -}}
{{- end -}}
{{- if not (hasPrefix "/" $settings.batch.directory) -}}
{{- fail "settings.batch.directory must be an absolute path: the shared volume is mounted there." -}}
{{- end -}}
{{- range $settings.router.workers -}}
{{- if contains ",key=" . -}}
{{- fail "settings.router.workers: a worker's key would stand in a ConfigMap. Give the list as RHIZOME_ROUTER__WORKERS through router.extraEnv, from a Secret." -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.networkPolicy.enginePorts.from) (int .Values.networkPolicy.enginePorts.to) -}}
{{- fail "networkPolicy.enginePorts.from is above networkPolicy.enginePorts.to." -}}
{{- end -}}
{{- end -}}

{{- define "rhizome.checks.router" -}}
{{- if gt (int .Values.router.autoscaling.minReplicas) (int .Values.router.autoscaling.maxReplicas) -}}
{{- fail "router.autoscaling.minReplicas is above router.autoscaling.maxReplicas." -}}
{{- end -}}
{{- if and .Values.router.ingress.tlsSecret (not .Values.router.ingress.host) -}}
{{- fail "router.ingress.host must be set when router.ingress.tlsSecret is." -}}
{{- end -}}
{{- end -}}

{{- define "rhizome.checks.ray" -}}
{{- if and .Values.controller.enabled (not .Values.ray.enabled) (not .Values.settings.controller.ray_address) -}}
{{- fail "controller.enabled needs a Ray cluster: set ray.enabled=true, or settings.controller.ray_address, or controller.enabled=false." -}}
{{- end -}}
{{- $names := dict -}}
{{- range .Values.ray.workerGroups -}}
{{- if hasKey $names .name -}}
{{- fail (printf "ray.workerGroups: two groups share the name %q." .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "ray.workerGroups: %q has minReplicas above maxReplicas." .name) -}}
{{- end -}}
{{- if or (lt (int .replicas) (int .minReplicas)) (gt (int .replicas) (int .maxReplicas)) -}}
{{- fail (printf "ray.workerGroups: %q has replicas outside minReplicas to maxReplicas." .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rhizome.checks.models" -}}
{{- $gpus := false -}}
{{- range .Values.ray.workerGroups -}}
{{- range $resource, $_ := .resources.limits -}}
{{- if hasSuffix "gpu" $resource -}}{{- $gpus = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- $root := . -}}
{{- range .Values.settings.models -}}
{{- if hasKey $names .name -}}
{{- fail (printf "settings.models: two models share the name %q." .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- if and $root.Values.ray.enabled (eq (default "cpu" .device) "gpu") (not $gpus) -}}
{{- fail (printf "settings.models: %q wants GPUs, but no group of ray.workerGroups has a GPU among its resources.limits (such as nvidia.com/gpu)." .name) -}}
{{- end -}}
{{- if and $root.Values.ray.enabled (eq (default "cpu" .device) "cpu") (not (default 0.0 .cpus_per_worker)) -}}
{{- fail (printf "settings.models: %q runs on CPU and needs cpus_per_worker above 0, or Ray may put it beside its head." .name) -}}
{{- end -}}
{{- $workers := int (ternary .workers 1 (hasKey . "workers")) -}}
{{- with .scaling -}}
{{- $low := int (ternary .min_workers 1 (hasKey . "min_workers")) -}}
{{- $high := int (ternary .max_workers 1 (hasKey . "max_workers")) -}}
{{- if or (gt $low $high) (lt $workers $low) (gt $workers $high) -}}
{{- fail (printf "settings.models: %d workers do not lie within scaling bounds %d to %d." $workers $low $high) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
