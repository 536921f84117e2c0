{{/* Names and labels that several templates need. */}}

{{- define "aistack.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "aistack.fullname" -}}
{{- /* A release's name may have dots, a Service's may not. */ -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "aistack.name" .) $release -}}
{{- printf "%s-operator" $release | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s-operator" $release (include "aistack.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Objects of the cluster are named by namespace too: two releases must not take each other's. */}}
{{- define "aistack.clustername" -}}
{{- printf "%s-%s" .Release.Namespace (include "aistack.fullname" .) -}}
{{- end -}}

{{- define "aistack.selector" -}}
app.kubernetes.io/name: aistack-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "aistack.labels" -}}
{{ include "aistack.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: aistack
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "aistack.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "aistack.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- /* The account that every pod of the namespace has must not get the operator's rights. */ -}}
{{- if and .Values.rbac.create (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false, so say who gets the operator's rights: serviceAccount.name" -}}
{{- end -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "aistack.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The operator's settings, with what the chart knows. */}}
{{- define "aistack.config" -}}
{{- /* Two could lead at once, or none for long: the operator would not begin. */ -}}
{{- $times := dict "renew_seconds" 5 "deadline_seconds" 10 "duration_seconds" 15 -}}
{{- $times = mergeOverwrite $times (.Values.config.lease | default dict) -}}
{{- if or (ge (int $times.renew_seconds) (int $times.deadline_seconds)) (ge (int $times.deadline_seconds) (int $times.duration_seconds)) -}}
{{- fail (printf "config.lease: renew_seconds %v, deadline_seconds %v and duration_seconds %v must rise in this order" $times.renew_seconds $times.deadline_seconds $times.duration_seconds) -}}
{{- end -}}
{{- $lease := dict "namespace" .Release.Namespace "name" (include "aistack.fullname" .) -}}
{{- $known := dict "lease" $lease -}}
{{- with .Values.watch.namespace }}{{- $_ := set $known "namespace" . -}}{{- end -}}
{{- $images := dict -}}
{{- /* Values that a release before this one kept (--reuse-values) may lack what is new. */ -}}
{{- with (.Values.components).repository }}{{- $_ := set $images "repository" . -}}{{- end -}}
{{- with (.Values.components).digests }}{{- $_ := set $images "digests" . -}}{{- end -}}
{{- with $images }}{{- $_ := set $known "images" . -}}{{- end -}}
{{- if include "aistack.storePriority" . }}{{- $_ := set $known "store_priority_class" .Values.storePriority.name -}}{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $known) -}}
{{- end -}}

{{/* Number of the admin port. */}}
{{- define "aistack.port" -}}
{{- .Values.config.server.admin_listen | regexFind "[0-9]+$" -}}
{{- end -}}

{{/* Whether the policies of the cluster are wanted: "true" or nothing. */}}
{{- define "aistack.policies" -}}
{{- $enabled := .Values.admissionPolicies.enabled -}}
{{- if kindIs "invalid" $enabled -}}
{{- if not .Values.watch.namespace -}}true{{- end -}}
{{- else if $enabled -}}true{{- end -}}
{{- end -}}

{{/* Whether the release makes the PriorityClass of stores: "true" or nothing. */}}
{{- define "aistack.storePriority" -}}
{{- /* Values that a release before this one kept (--reuse-values) have none, and then no pod is made anew. */ -}}
{{- with .Values.storePriority -}}
{{- $another := $.Values.config.store_priority_class -}}
{{- if kindIs "invalid" .create -}}
{{- if not (or $.Values.watch.namespace $another) -}}true{{- end -}}
{{- else if .create -}}
{{- if $another -}}
{{- fail (printf "storePriority.create: config.store_priority_class names %s in place of one that the release makes; leave one of the two out" $another) -}}
{{- end -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether objects of Prometheus's operator are wanted. Given: context, value, kind. */}}
{{- define "aistack.wanted" -}}
{{- if kindIs "invalid" .value -}}
{{- if .context.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) -}}true{{- end -}}
{{- else if .value -}}true{{- end -}}
{{- end -}}

{{/* Namespaces with stacks, as JSON. */}}
{{- define "aistack.stacks" -}}
{{- $all := .Values.networkPolicy.stacks.namespaces -}}
{{- with .Values.watch.namespace }}{{- $all = append $all . -}}{{- end -}}
{{- $all | uniq | toJson -}}
{{- end -}}

{{/* Names of pods that run somebody else's engine, as JSON: their figures are at the port where clients ask them. */}}
{{- define "aistack.engines" -}}
["vllm", "infinity"]
{{- end -}}

{{/* What Pod Security's level "restricted" asks of a pod. */}}
{{- define "aistack.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "aistack.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A field as CEL reads it when it may be absent: spec.tls.secretName is spec.?tls.?secretName. */}}
{{- define "aistack.field" -}}
spec.{{ trimPrefix "spec." . | splitList "." | join ".?" | printf "?%s" }}
{{- end -}}

{{/* Where a policy of the cluster holds: everywhere, or in the one namespace that is watched. */}}
{{- define "aistack.where" -}}
{{- with .Values.watch.namespace -}}
namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ . | quote }}}}
{{- else -}}
namespaceSelector: {}
{{- end -}}
{{- end -}}

{{/* A change that leaves the spec alone, such as taking a finalizer away, is nobody's business. */}}
{{- define "aistack.specChanged" -}}
- name: the-spec-changed
  expression: oldObject == null || object.spec != oldObject.spec
{{- end -}}

{{/* Stacks that made an object, as a variable of a policy. Given: the object's name in CEL. */}}
{{- define "aistack.stacksOf" -}}
- name: stacks
  expression: >-
    {{ . }}.metadata.?ownerReferences.orValue([]).filter(owner, owner.kind == "AIStack" &&
    owner.apiVersion.startsWith("platform.dev/") && owner.?controller.orValue(false))
{{- end -}}

{{/* What is said of a change to what a stack made. */}}
{{- define "aistack.stacksSay" -}}
>-
  "spec: belongs to AIStack " + variables.stacks[0].name + ", which would take the change back; change it there: kubectl edit stack " +
  variables.stacks[0].name + " -n " + request.namespace
{{- end -}}

{{/* Egress to whoever answers names. Values of an earlier chart have no dns. */}}
{{- define "aistack.dns" -}}
{{- $dns := .Values.networkPolicy.dns | default dict -}}
- ports:
    {{- range $dns.ports | default (list 53) }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with $dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
