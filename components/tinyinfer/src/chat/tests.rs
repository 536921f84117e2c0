//! Rendering against Hugging Face's: `tests/golden/chat_cases.py` says how the golden file is made.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;

fn options(given: &Json) -> RenderOptions {
    let mut extra = given.as_object().cloned().unwrap_or_default();
    let mut take = |name: &str| extra.remove(name).and_then(|value| value.as_bool()).unwrap_or(false);
    RenderOptions {
        add_generation_prompt: take("add_generation_prompt"),
        continue_final_message: take("continue_final_message"),
        extra,
        now: UNIX_EPOCH + Duration::from_secs(1_709_211_909),
    }
}

#[test]
fn renders_what_transformers_renders() {
    let golden = include_str!("../../tests/golden/chat.jsonl");
    let mut lines = golden.lines().map(|line| serde_json::from_str::<Json>(line).expect("a line is JSON"));
    let inputs = lines.next().expect("the first line holds templates and conversations");
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in lines {
        let source = inputs["templates"][case["template"].as_str().unwrap()].as_str().unwrap();
        let messages = inputs["conversations"][case["conversation"].as_str().unwrap()].as_array().unwrap();
        let rendered = ChatTemplate::new(source, "<s>", "</s>")
            .and_then(|template| template.render(messages, &options(&case["options"])));
        let raised =
            case["error"].as_str().filter(|e| e.starts_with("Roles must") || e.starts_with("Only user"));
        let same = match (&rendered, case["text"].as_str(), raised) {
            (Ok(text), Some(expected), _) => text == expected,
            (Err(ChatError::Refused { message }), _, Some(expected)) => message == expected,
            (Err(_), None, None) => true,
            _ => false,
        };
        count += 1;
        if !same {
            wrong.push(format!("{case}\n  got {rendered:?}"));
        }
    }
    assert!(count > 100, "the golden file is whole");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn errors_name_their_cause() {
    let error = ChatTemplate::new("{% if %}", "", "").err().expect("no valid template");
    assert!(matches!(error, ChatError::Parse { .. }), "{error}");
    let template = ChatTemplate::new("{{ messages[0].content + 1 }}", "", "").unwrap();
    let error =
        template.render(&[json!({"role": "user", "content": "x"})], &RenderOptions::default()).unwrap_err();
    assert!(matches!(error, ChatError::Render { .. }), "{error}");
    let silent = ChatTemplate::new("nothing", "", "").unwrap();
    let going_on = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
    for messages in [vec![], vec![json!({"role": "user"})], vec![json!({"role": "user", "content": "x"})]] {
        let error = silent.render(&messages, &going_on).unwrap_err();
        assert!(matches!(error, ChatError::NothingToContinue), "{error}");
    }
}

#[test]
fn a_conversation_cannot_set_the_templates_own_variables() {
    let template = ChatTemplate::new("{{ bos_token }}{{ messages|length }}{{ thing }}", "<s>", "").unwrap();
    let extra = json!({"bos_token": "evil", "messages": [], "thing": "T"}).as_object().cloned().unwrap();
    let text =
        template.render(&[json!({"role": "user"})], &RenderOptions { extra, ..RenderOptions::default() });
    assert_eq!(text.unwrap(), "<s>1T");
}

#[test]
fn dates_are_right_at_the_edges_of_the_calendar() {
    let table = [
        (0, "1970-01-01 4 001"),
        (951_782_400, "2000-02-29 2 060"),
        (951_868_800, "2000-03-01 3 061"),
        (1_735_603_200, "2024-12-31 2 366"),
        (4_107_542_400, "2100-03-01 1 060"),
    ];
    for (seconds, expected) in table {
        assert_eq!(strftime::strftime("%F %w %j", UNIX_EPOCH + Duration::from_secs(seconds)), expected);
    }
    assert_eq!(strftime::strftime("%q %-q 100% %", UNIX_EPOCH), "%q %-q 100% %");
}
