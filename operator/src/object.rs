//! What every validation asks of an object: name, owner, sizes.

use kube::Resource;

use crate::meta::Owner;
use crate::problem::Problem;
use crate::size::Size;

/// Annotation of a child whose volumes go with its stack.
pub(crate) const RETENTION: &str = "platform.dev/retention";
/// Label of a child that names its stack.
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of";

/// The object's name; the schema's check made sure that there is one.
pub(crate) fn name<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

/// Whom an object's children belong to. `part_of` empty: the stack that its label names, else itself.
pub(crate) fn owner<K: Resource>(object: &K, component: &str, part_of: &str) -> Owner {
    let meta = object.meta();
    let labelled = meta.labels.as_ref().and_then(|labels| labels.get(PART_OF)).cloned();
    let part_of =
        if part_of.is_empty() { labelled.unwrap_or_else(|| name(object)) } else { part_of.to_owned() };
    Owner {
        component: component.to_owned(),
        instance: name(object),
        part_of,
        namespace: meta.namespace.clone().unwrap_or_default(),
    }
}

/// Whether the object's volumes are deleted with it.
pub(crate) fn deletes_volumes<K: Resource>(object: &K) -> bool {
    object
        .meta()
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(RETENTION))
        .is_some_and(|policy| policy == "Delete")
}

/// Reads a size, or says what is wrong with it.
pub(crate) fn size(path: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Size> {
    let size = Size::parse(text);
    match &size {
        None => problems.push(Problem::new(
            path,
            format!("`{text}` does not fit 64 bits"),
            "write a size such as 100Gi",
        )),
        Some(size) if size.bytes() == 0 => {
            problems.push(Problem::new(path, format!("`{text}` is nothing"), "write a size such as 100Gi"));
        }
        Some(_) => {}
    }
    size
}
