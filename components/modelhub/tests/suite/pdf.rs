//! PDFs that this file writes: text with pages, what cannot be read, and a folder of mixed files through the command line.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use aistack_api::modelhub::{EngineTask, VectorConfig, VectorKind};
use aistack_api::rag::{Answer, Passages};
use modelhub::text;
use serde_json::{Value, json};

use crate::engine::{Engine, Manner};
use crate::hub::{Hub, engine};
use crate::processes::{self, Service};
use crate::stack::unique;

/// A PDF 1.4 file with these lines on its pages, in Helvetica.
pub fn write(pages: &[&[&str]]) -> Vec<u8> {
    let mut objects = vec!["<< /Type /Catalog /Pages 2 0 R >>".to_owned()];
    let kids: Vec<String> = (0..pages.len()).map(|i| format!("{} 0 R", 4 + 2 * i)).collect();
    objects.push(format!("<< /Type /Pages /Kids [{}] /Count {} >>", kids.join(" "), pages.len()));
    objects
        .push("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned());
    for (i, lines) in pages.iter().enumerate() {
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {} 0 R /Resources << /Font << /F1 3 0 R >> >> >>",
            5 + 2 * i
        ));
        let mut content = "BT /F1 12 Tf 14 TL 72 770 Td\n".to_owned();
        for line in *lines {
            let escaped = line.replace('\\', "\\\\").replace('(', "\\(").replace(')', "\\)");
            writeln!(content, "({escaped}) Tj T*").expect("memory");
        }
        content.push_str("ET\n");
        objects.push(format!("<< /Length {} >>\nstream\n{content}endstream", content.len()));
    }
    let mut file = "%PDF-1.4\n".to_owned();
    let mut offsets = Vec::new();
    for (i, object) in objects.iter().enumerate() {
        offsets.push(file.len());
        write!(file, "{} 0 obj\n{object}\nendobj\n", i + 1).expect("memory");
    }
    let table = file.len();
    write!(file, "xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).expect("memory");
    for offset in offsets {
        writeln!(file, "{offset:010} 00000 n ").expect("memory");
    }
    write!(file, "trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n", objects.len() + 1)
        .expect("memory");
    file.into_bytes()
}

const TRAVEL: &[&[&str]] = &[
    &["Travel policy", "Trains are booked in second class (saver fares", "where possible)."],
    &[],
    &["A taxi needs the approval of the team lead.", "Receipts are kept for ten years."],
];

#[test]
fn text_pages_and_spans_of_a_pdf() {
    let document = text::read("travel.pdf", &write(TRAVEL)).expect("a PDF with text");
    let passages = text::passages(&document, text::Limits { words: 40, tokens: 256 });
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let got: Vec<(Option<u32>, String)> = passages.iter().map(|p| (p.page, flat(&p.text))).collect();
    let want = [
        (Some(1), "Travel policy Trains are booked in second class (saver fares where possible)."),
        (Some(3), "A taxi needs the approval of the team lead. Receipts are kept for ten years."),
    ];
    assert_eq!(got, want.map(|(page, text)| (page, text.to_owned())));
    for passage in &passages {
        assert_eq!(document.text[passage.bytes.clone()], passage.text, "spans count in the extracted text");
        let before = document.text[..passage.bytes.start].lines().count() as u64;
        assert_eq!(
            passage.lines.0,
            before.max(1) + u64::from(document.text[..passage.bytes.start].ends_with('\n'))
        );
    }
}

#[test]
fn what_is_no_pdf_with_text_is_refused_and_nothing_panics() {
    let whole = write(TRAVEL);
    assert!(text::read("a.pdf", b"").expect_err("empty").to_string().contains("not a readable PDF"));
    let blank = text::read("scan.pdf", &write(&[&[], &[]])).expect_err("no text").to_string();
    assert!(blank.contains("no text layer"), "{blank}");
    // Cut anywhere, and with any byte flipped: an error or a document, never the end of the process.
    for cut in (0..whole.len()).step_by(37) {
        let _ = text::read("cut.pdf", &whole[..cut]);
    }
    for at in (0..whole.len()).step_by(11) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x15;
        let _ = text::read("damaged.pdf", &damaged);
    }
}

/// A hub on real stores with engines that answer at once.
pub struct Quick {
    pub hub: Hub,
    pub kv: Service,
    pub vectors: Service,
    pub chat: Engine,
    pub embed: Engine,
    pub rag: String,
}

impl Quick {
    pub async fn start(kv: Service, vectors: Service) -> Self {
        let chat = Engine::start("c", Manner::Pieces(vec!["data: [DONE]\n\n"])).await;
        let embed = Engine::start("e", Manner::Embed).await;
        let hub = Hub::start(|config| {
            crate::stack::on(config, &kv);
            let endpoint = vectors.url.clone();
            config.vector =
                Some(VectorConfig { kind: VectorKind::Qdrant, endpoint, api_key_file: None, tls: None });
            config.engines = vec![
                engine("chat", &chat.url, EngineTask::Chat),
                engine("embed", &embed.url, EngineTask::Embed),
            ];
            config.rag.focus_sentences = 0;
            config.rag.min_score = -1.0;
        })
        .await;
        let rag = unique("r");
        let (status, made) = hub.post("/api/v1/rag", &json!({"name": rag})).await;
        assert_eq!(status, 200, "{made}");
        Self { hub, kv, vectors, chat, embed, rag }
    }

    pub async fn put(&self, path: &str, content: impl Into<reqwest::Body>) -> (u16, Value) {
        self.hub.put(&format!("/api/v1/rag/{}/files/{path}", self.rag), content).await
    }

    pub async fn show(&self) -> (u64, u64) {
        let (status, rag) = self.hub.get(&format!("/api/v1/rag/{}", self.rag)).await;
        assert_eq!(status, 200, "{rag}");
        (rag["files"].as_u64().expect("a number"), rag["passages"].as_u64().expect("a number"))
    }

    pub async fn search(&self, question: &str) -> Passages {
        let body = json!({"question": question});
        let (status, found) = self.hub.post(&format!("/api/v1/rag/{}/search", self.rag), &body).await;
        assert_eq!(status, 200, "{found}");
        serde_json::from_value(found).expect("passages")
    }

    pub async fn query(&self, question: &str) -> (u16, Value) {
        self.hub.post(&format!("/api/v1/rag/{}/query", self.rag), &json!({"question": question})).await
    }
}

#[tokio::test]
async fn an_answer_from_a_pdf_cites_its_page() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    let file = write(TRAVEL);
    let (status, reply) = quick.put("travel.pdf", file.clone()).await;
    assert_eq!((status, reply["passages"].as_u64()), (200, Some(2)), "{reply}");
    quick.chat.set(Manner::Pieces(vec![
        "data: {\"choices\":[{\"delta\":{\"content\":\"A taxi needs the approval of the team lead.\"}}]}\n\n",
        "data: [DONE]\n\n",
    ]));
    let (status, answer) = quick.query("Who approves a taxi?").await;
    assert_eq!(status, 200, "{answer}");
    let answer: Answer = serde_json::from_value(answer).expect("an answer");
    let citation = answer.citations.first().expect("a citation");
    assert_eq!((citation.file.as_str(), citation.page), ("travel.pdf", Some(3)));
    let extracted = text::read("travel.pdf", &file).expect("text").text;
    let span = &extracted[citation.start_byte as usize..citation.end_byte as usize];
    assert_eq!(span, citation.quote);
    assert!(span.contains("approval of the team lead"), "{span}");
}

fn command(hub: &Hub, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_modelhub"))
        .args(arguments)
        .env("AISTACK_MODELHUB_URL", &hub.url)
        .output()
        .expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn fill(folder: &Path) {
    let files: [(&str, Vec<u8>); 6] = [
        ("notes.txt", b"The printer on the second floor is called Gutenberg.".to_vec()),
        ("people/leave.md", b"# Leave\n\nRequests are made ten working days before.\n".to_vec()),
        ("office/kitchen.html", b"<h1>Kitchen</h1><p>The dishwasher runs at six.</p>".to_vec()),
        ("travel.pdf", write(TRAVEL)),
        ("logo.png", b"\x89PNG".to_vec()),
        (".hidden/secret.md", b"Nothing to see.".to_vec()),
    ];
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_all_kinds_is_ingested_once_and_followed() {
    let quick = Quick::start(processes::kv().await, processes::vectors().await).await;
    let folder = tempfile::tempdir().expect("a folder");
    fill(folder.path());
    let place = folder.path().display().to_string();
    let ingest = || command(&quick.hub, &["rag", "ingest", &quick.rag, &place]);
    let (ok, out, err) = ingest();
    assert!(ok && out.contains("4 files, 5 passages  (4 sent, 0 unchanged, 0 deleted)"), "{out}{err}");
    assert!(err.contains("1 file of other kinds left out (logo.png)"), "{err}");
    for (question, file, page) in [
        ("the printer Gutenberg", "notes.txt", None),
        ("requests ten working days", "people/leave.md", None),
        ("dishwasher at six", "office/kitchen.html", None),
        ("taxi approval team lead receipts", "travel.pdf", Some(3)),
    ] {
        let found = quick.search(question).await;
        assert_eq!((found.passages[0].file.as_str(), found.passages[0].page), (file, page), "{question}");
    }
    let (ok, out, _) = ingest();
    assert!(ok && out.contains("4 files, 5 passages  (0 sent, 4 unchanged, 0 deleted)"), "{out}");

    std::fs::remove_file(folder.path().join("travel.pdf")).expect("there");
    std::fs::write(folder.path().join("notes.txt"), "The printer is called Senefelder.").expect("a file");
    let (ok, out, _) = ingest();
    assert!(ok && out.contains("3 files, 3 passages  (1 sent, 2 unchanged, 1 deleted)"), "{out}");
    let all = quick.search("printer taxi").await.passages;
    assert!(all.iter().all(|p| p.file != "travel.pdf" && !p.text.contains("Gutenberg")), "{all:?}");

    std::fs::write(folder.path().join("broken.pdf"), "not a pdf").expect("a file");
    let (ok, _, err) = ingest();
    assert!(
        !ok && err.contains("broken.pdf: not a readable PDF") && err.contains("the others were"),
        "{err}"
    );
    assert_eq!(quick.show().await, (3, 3), "the others stay");

    let (ok, out, err) = command(&quick.hub, &["rag", "search", &quick.rag, "printer"]);
    assert!(ok && out.contains("notes.txt:1"), "{out}{err}");
    std::fs::write(folder.path().join("travel.pdf"), write(TRAVEL)).expect("a file");
    let pdf = folder.path().join("travel.pdf").display().to_string();
    let (ok, out, _) = command(&quick.hub, &["rag", "text", &pdf]);
    assert!(ok && out == text::read("travel.pdf", &write(TRAVEL)).expect("text").text, "{out}");
}
