{{/* Name of everything: that of the release. Node names come from it, and have at most 63 characters. */}}
{{- define "quorate.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "quorate.selector" -}}
app.kubernetes.io/name: quorate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "quorate.labels" -}}
{{ include "quorate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Where a node's peers dial it: the stable name of its pod. Takes a dict of root and number. */}}
{{- define "quorate.peer" -}}
{{- $name := include "quorate.name" .root -}}
{{ $name }}-{{ .number }}.{{ $name }}-peers.{{ .root.Release.Namespace }}.svc:{{ .root.Values.peer.port }}
{{- end }}

{{/* The PROXY protocol of a listener. */}}
{{- define "quorate.proxy" -}}
{{- with .Values.listeners.proxyTrusted }}
proxy_protocol = true
proxy_trusted = {{ . | toJson }}
{{- end }}
{{- end }}

{{/* The configuration of one node. Takes a dict of root and number. */}}
{{- define "quorate.config" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $name := include "quorate.name" $root -}}
{{- $node := printf "%s-%d" $name .number -}}
[node]
name = "{{ $node }}"
data_dir = "/var/lib/quorate/data"
{{- if $values.listeners.plain.enabled }}

[[listener]]
kind = "tcp"
bind = "0.0.0.0:{{ $values.listeners.plain.port }}"
insecure = true
{{- include "quorate.proxy" $root }}
{{- end }}
{{- if $values.listeners.tls.secretName }}

[[listener]]
kind = "tls"
bind = "0.0.0.0:{{ $values.listeners.tls.port }}"
cert_file = "/etc/quorate/client-tls/tls.crt"
key_file = "/etc/quorate/client-tls/tls.key"
{{- if $values.listeners.tls.clientCaSecretName }}
client_certificate = "required"
client_ca_file = "/etc/quorate/client-ca/ca.pem"
principal = "certificate"
{{- end }}
{{- include "quorate.proxy" $root }}
{{- end }}

[admin]
bind = "0.0.0.0:{{ $values.admin.port }}"
{{- if $values.admin.tokenSecretName }}
token_file = "/etc/quorate/admin-token/token"
{{- else }}
insecure = true
{{- end }}

[peer]
bind = "0.0.0.0:{{ $values.peer.port }}"
advertise = "{{ include "quorate.peer" . }}"
ca_file = "/etc/quorate/peer-tls/ca.pem"
cert_file = "/etc/quorate/peer-tls/{{ $node }}.pem"
key_file = "/etc/quorate/peer-tls/{{ $node }}.key"

[cluster]
name = "{{ $values.cluster.name }}"
partitions = {{ $values.cluster.partitions }}
bootstrap = [
{{- range $number := until (int $values.cluster.founders) }}
  { name = "{{ $name }}-{{ $number }}", peer = "{{ include "quorate.peer" (dict "root" $root "number" $number) }}" },
{{- end }}
{{- if ge .number (int $values.cluster.founders) }}
  { name = "{{ $node }}", peer = "{{ include "quorate.peer" . }}" },
{{- end }}
]

[log]
format = "json"
{{- with $values.extraConfig }}

{{ . | trim }}
{{- end }}
{{- end }}
