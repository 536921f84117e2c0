//! `charts/aistack-crds/templates/`: the generated kinds as templates, which helm upgrades and, unless told otherwise, keeps.

use anyhow::{Context as _, Result, ensure};

/// What a template adds to the metadata of a kind.
const METADATA: &str = "  labels:
    app.kubernetes.io/name: aistack-crds
    app.kubernetes.io/instance: {{ .Release.Name | quote }}
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
    {{- with .Values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.keep .Values.annotations }}
  annotations:
    {{- if .Values.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    {{- with .Values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
";

/// A generated kind as a template.
pub fn template(name: &str, yaml: &str) -> Result<String> {
    ensure!(!yaml.contains("{{"), "{name} has two braces in a row, which helm would read as its own");
    let (head, spec) = yaml.split_once("\nspec:\n").with_context(|| format!("{name} has no spec"))?;
    ensure!(!head.contains("labels:"), "{name} has labels already");
    Ok(format!("{head}\n{METADATA}spec:\n{spec}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_goes_between_the_name_and_the_spec() {
        let text = template("a.yaml", "kind: K\nmetadata:\n  name: a\nspec:\n  b: 1\n").unwrap();
        // Two spaces: a label of the object, and not a field beside its metadata.
        assert!(text.starts_with("kind: K\nmetadata:\n  name: a\n  labels:\n"), "{text}");
        assert!(text.ends_with("  {{- end }}\nspec:\n  b: 1\n"), "{text}");
        assert!(template("a.yaml", "d: '{{ x }}'\nspec:\n").is_err());
    }
}
