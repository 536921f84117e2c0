//! The engine against a model that is a map: random operations, with segments so small that everything happens, across
//! checkpoints, optimisations and restarts.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use vectorforge::engine::filter::{PointFacts, passes};
use vectorforge::engine::{
    CollectionConfig, Condition, Direction, Distance, Engine, EngineOptions, FieldKind, Filter, HnswParams,
    JsonPath, MatchValue, MinShould, OptimizerParams, OrderBy, Payload, Point, PointId, Predicate, Query,
    Range, Scroll, SearchParams, Selector, VectorParams, Vectors, With, WithPayload, WithVectors,
};

type Model = BTreeMap<PointId, (Vectors, Payload)>;

const ALL: With = With { payload: WithPayload::All, vectors: WithVectors::All };

struct Facts<'a>(PointId, &'a Vectors);

impl PointFacts for Facts<'_> {
    fn id(&self) -> Option<PointId> {
        Some(self.0)
    }
    fn has_vector(&self, name: &str) -> bool {
        self.1.get(name).is_some()
    }
    fn text_params(&self, _: &JsonPath) -> Option<vectorforge::engine::TextParams> {
        None
    }
}

fn matching<'a>(model: &'a Model, filter: &'a Filter) -> impl Iterator<Item = PointId> + 'a {
    model
        .iter()
        .filter(|(id, (vectors, payload))| passes(filter, payload, &Facts(**id, vectors)))
        .map(|(id, _)| *id)
}

fn path(text: &str) -> JsonPath {
    text.parse().expect("a path")
}

fn random_id(rng: &mut StdRng) -> PointId {
    let number = rng.random_range(0..60u64);
    if number % 4 == 3 { PointId::Uuid(u128::from(number) << 64 | 5) } else { PointId::Num(number) }
}

fn random_payload(rng: &mut StdRng) -> Payload {
    let mut payload = Payload::new();
    let mut put = |key: &str, value: Value| {
        payload.insert(key.to_owned(), value);
    };
    if rng.random_bool(0.8) {
        put("colour", json!(["red", "green", "blue"][rng.random_range(0..3)]));
    }
    if rng.random_bool(0.8) {
        put("size", json!(rng.random_range(-5..20)));
    }
    if rng.random_bool(0.3) {
        put("size", json!([rng.random_range(0..5), 2.5]));
    }
    if rng.random_bool(0.5) {
        put("price", json!(f64::from(rng.random_range(0..40)) / 4.0));
    }
    if rng.random_bool(0.3) {
        put("sold", json!(rng.random_bool(0.5)));
    }
    if rng.random_bool(0.2) {
        put("sold", Value::Null);
    }
    if rng.random_bool(0.5) {
        put("text", json!(["a red fox", "the Green hills", "fox and hills"][rng.random_range(0..3)]));
    }
    if rng.random_bool(0.4) {
        put(
            "parts",
            json!([{"kind": "wheel", "count": rng.random_range(0..5)}, {"kind": "door", "count": 2}]),
        );
    }
    payload
}

fn random_vectors(rng: &mut StdRng) -> Vectors {
    // Coordinates of eighths are exact in f32 and survive every restart bit for bit.
    let mut vector = |dimension: usize| -> Vec<f32> {
        (0..dimension).map(|_| f32::from(rng.random_range(-16..16i8)) / 8.0).collect()
    };
    let mut vectors = Vectors::unnamed(vector(5));
    if vector(1)[0] > 0.0 {
        vectors.0.insert("side".to_owned(), vector(3));
    }
    vectors
}

fn random_condition(rng: &mut StdRng, depth: usize) -> Condition {
    let field = |key: &str, predicate| Condition::Field { key: path(key), predicate };
    let keyword = |text: &str| MatchValue::Keyword(text.to_owned());
    let low = f64::from(rng.random_range(-3..12));
    match rng.random_range(0..14) {
        0 => field("colour", Predicate::Is(keyword("red"))),
        1 => field("colour", Predicate::Any(vec![keyword("red"), keyword("blue")])),
        2 => field("colour", Predicate::Except(vec![keyword("red")])),
        3 => field("size", Predicate::Is(MatchValue::Integer(rng.random_range(0..6)))),
        4 => {
            field("size", Predicate::Range(Range { gte: Some(low), lt: Some(low + 4.0), ..Range::default() }))
        }
        5 => field("price", Predicate::Range(Range { gt: Some(low), ..Range::default() })),
        6 => field("sold", Predicate::Is(MatchValue::Bool(true))),
        7 => field("text", Predicate::Text("FOX".to_owned())),
        8 => Condition::IsEmpty(path("sold")),
        9 => Condition::IsNull(path("sold")),
        10 => Condition::HasId((0..10).map(|_| random_id(rng)).collect::<BTreeSet<_>>()),
        11 => Condition::HasVector("side".to_owned()),
        12 => Condition::Nested {
            key: path("parts"),
            filter: Filter::must([
                field("kind", Predicate::Is(keyword("wheel"))),
                field("count", Predicate::Range(Range { gte: Some(2.0), ..Range::default() })),
            ]),
        },
        _ if depth > 0 => Condition::Filter(random_filter(rng, depth - 1)),
        _ => {
            Condition::ValuesCount { key: path("size"), count: Range { gte: Some(2.0), ..Range::default() } }
        }
    }
}

fn random_filter(rng: &mut StdRng, depth: usize) -> Filter {
    let mut list = |most: usize| -> Vec<Condition> {
        (0..rng.random_range(0..=most)).map(|_| random_condition(rng, depth)).collect()
    };
    let (must, should, must_not) = (list(2), list(2), list(1));
    let conditions = list(3);
    let min_should = (conditions.len() == 3).then_some(MinShould { conditions, min_count: 2 });
    Filter { must, should, must_not, min_should }
}

struct World {
    dir: tempfile::TempDir,
    engine: Option<Engine>,
    model: Model,
    distance: Distance,
}

impl World {
    fn new(distance: Distance) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = Engine::open(dir.path(), EngineOptions::default()).expect("opened");
        let mut config = CollectionConfig::unnamed(5, distance);
        config.vectors.insert("side".to_owned(), VectorParams { dimension: 3, distance, hnsw: None });
        config.hnsw = HnswParams { m: 4, ef_construct: 16, ef_search: 16, full_scan_points: 8 };
        config.optimizer = OptimizerParams { seal_points: 12, max_segments: 2, ..OptimizerParams::default() };
        engine.create_collection("c", config).expect("created");
        Self { dir, engine: Some(engine), model: Model::new(), distance }
    }

    fn collection(&self) -> std::sync::Arc<vectorforge::engine::Collection> {
        self.engine.as_ref().expect("open").collection("c").expect("the collection")
    }

    fn restart(&mut self, cleanly: bool) {
        let engine = self.engine.take().expect("open");
        if cleanly {
            engine.close().expect("closed");
        }
        drop(engine);
        self.engine = Some(Engine::open(self.dir.path(), EngineOptions::default()).expect("reopened"));
    }

    fn step(&mut self, rng: &mut StdRng) {
        let collection = self.collection();
        let wait = rng.random_bool(0.2);
        let selector = if rng.random_bool(0.3) {
            Selector::Filter(random_filter(rng, 1))
        } else {
            Selector::Ids((0..3).map(|_| random_id(rng)).filter(|id| self.model.contains_key(id)).collect())
        };
        let selected: Vec<PointId> = match &selector {
            Selector::Ids(ids) => ids.clone(),
            Selector::Filter(filter) => matching(&self.model, filter).collect(),
        };
        let mut on_selected = |change: &dyn Fn(&mut Payload)| {
            for id in &selected {
                change(&mut self.model.get_mut(id).expect("selected points are there").1);
            }
        };
        match rng.random_range(0..20) {
            0..=8 => {
                let points: Vec<Point> = (0..rng.random_range(1..6))
                    .map(|_| Point {
                        id: random_id(rng),
                        vectors: random_vectors(rng),
                        payload: random_payload(rng),
                    })
                    .collect();
                for point in &points {
                    self.model.insert(point.id, (point.vectors.clone(), point.payload.clone()));
                }
                collection.upsert(points, wait).expect("upserted");
            }
            9 => {
                collection.delete(&selector, wait).expect("deleted");
                self.model.retain(|id, _| !selected.contains(id));
            }
            10 | 11 => {
                let payload = random_payload(rng);
                collection.set_payload(&selector, &payload, None, wait).expect("set");
                on_selected(&|held| {
                    for (key, value) in &payload {
                        if value.is_null() {
                            held.shift_remove(key);
                        } else {
                            held.insert(key.clone(), value.clone());
                        }
                    }
                });
            }
            12 => {
                let payload = random_payload(rng);
                collection.overwrite_payload(&selector, &payload, wait).expect("overwritten");
                on_selected(&|held| held.clone_from(&payload));
            }
            13 => {
                collection
                    .delete_payload(&selector, &[path("colour"), path("parts[].count")], wait)
                    .expect("deleted");
                on_selected(&|held| {
                    path("colour").remove_from(held);
                    path("parts[].count").remove_from(held);
                });
            }
            14 => {
                collection.clear_payload(&selector, wait).expect("cleared");
                on_selected(&Payload::clear);
            }
            15 => {
                let updates: Vec<_> = selected.iter().map(|id| (*id, random_vectors(rng))).collect();
                collection.update_vectors(updates.clone(), wait).expect("updated");
                for (id, vectors) in updates {
                    self.model.get_mut(&id).expect("selected points are there").0.0.extend(vectors.0);
                }
            }
            16 => {
                collection.delete_vectors(&selector, &["side".to_owned()], wait).expect("removed");
                for id in &selected {
                    self.model.get_mut(id).expect("selected points are there").0.0.remove("side");
                }
            }
            17 => {
                let kinds = [
                    ("colour", FieldKind::Keyword),
                    ("size", FieldKind::Integer),
                    ("price", FieldKind::Float),
                    ("sold", FieldKind::Bool),
                    ("text", FieldKind::Text),
                    ("parts[].kind", FieldKind::Keyword),
                ];
                let (key, kind) = kinds[rng.random_range(0..kinds.len())];
                if rng.random_bool(0.8) {
                    collection.create_field_index(&path(key), kind.into()).expect("created");
                } else {
                    collection.delete_field_index(&path(key)).expect("dropped");
                }
            }
            18 => collection.checkpoint().expect("checkpointed"),
            _ => collection.optimize_now().expect("optimised"),
        }
    }

    fn check(&self, rng: &mut StdRng) {
        let collection = self.collection();
        assert_eq!(collection.info().points, self.model.len());
        let ids: Vec<PointId> = self.model.keys().copied().collect();
        let got = collection.get(&ids, &ALL).expect("got");
        assert_eq!(got.len(), ids.len());
        for (record, (id, (vectors, payload))) in got.iter().zip(&self.model) {
            assert_eq!((record.id, record.payload.as_ref()), (*id, Some(payload)));
            let held = record.vectors.as_ref().expect("asked for");
            assert_eq!(held.0.keys().collect::<Vec<_>>(), vectors.0.keys().collect::<Vec<_>>());
            if self.distance != Distance::Cosine {
                assert_eq!(held, vectors);
            }
        }
        for _ in 0..4 {
            let filter = random_filter(rng, 1);
            let expected: Vec<PointId> = matching(&self.model, &filter).collect();
            assert_eq!(collection.count(Some(&filter), true).expect("counted"), expected.len(), "{filter:?}");
            let mut scrolled = Vec::new();
            let mut scroll = Scroll { filter: Some(filter.clone()), limit: 7, ..Scroll::default() };
            loop {
                let page = collection.scroll(&scroll).expect("scrolled");
                scrolled.extend(page.points.iter().map(|record| record.id));
                match page.next {
                    Some(next) => scroll.offset = Some(next),
                    None => break,
                }
            }
            assert_eq!(scrolled, expected, "{filter:?}");
            self.check_search(rng, &filter, &expected);
        }
        self.check_order(rng);
    }

    fn check_search(&self, rng: &mut StdRng, filter: &Filter, passing: &[PointId]) {
        let collection = self.collection();
        let using = if rng.random_bool(0.3) { "side" } else { "" };
        let vector = loop {
            if let Some(vector) = random_vectors(rng).get(using) {
                break vector.to_vec();
            }
        };
        let mut scores: Vec<f32> = passing
            .iter()
            .filter_map(|id| self.model[id].0.get(using))
            .map(|held| score(self.distance, &vector, held))
            .collect();
        scores.sort_by(f32::total_cmp);
        if self.distance.larger_is_nearer() {
            scores.reverse();
        }
        let exact = rng.random_bool(0.7);
        let params = SearchParams { ef: Some(64), exact, ..SearchParams::default() };
        let query = Query {
            using: using.to_owned(),
            filter: Some(filter.clone()),
            params,
            offset: 1,
            ..Query::nearest(vector, 6)
        };
        let found = collection.search(&query).expect("searched");
        let expected = &scores[1.min(scores.len())..7.min(scores.len())];
        assert_eq!(found.len(), expected.len(), "exact {exact} {using} {filter:?}");
        for (hit, expected) in found.iter().zip(expected) {
            assert!(passing.contains(&hit.id));
            if exact {
                assert!((hit.score - expected).abs() < 1e-4, "{} is not {expected}", hit.score);
            }
        }
    }

    fn check_order(&self, rng: &mut StdRng) {
        let collection = self.collection();
        let descending = rng.random_bool(0.5);
        let direction = if descending { Direction::Descending } else { Direction::Ascending };
        let order_by = Some(OrderBy { key: path("price"), direction, start_from: Some(4.0) });
        let Ok(page) = collection.scroll(&Scroll { order_by, limit: 9, ..Scroll::default() }) else { return };
        let prices = self.model.values().filter_map(|(_, payload)| payload.get("price")?.as_f64());
        let mut prices: Vec<f64> =
            prices.filter(|price| if descending { *price <= 4.0 } else { *price >= 4.0 }).collect();
        prices.sort_by(f64::total_cmp);
        if descending {
            prices.reverse();
        }
        prices.truncate(9);
        let got: Vec<f64> =
            page.points.iter().map(|record| record.order_value.expect("ordered").as_f64()).collect();
        assert_eq!(got, prices);
    }
}

fn score(distance: Distance, a: &[f32], b: &[f32]) -> f32 {
    let sum = |term: fn(f32, f32) -> f32| a.iter().zip(b).map(|(x, y)| term(*x, *y)).sum::<f32>();
    let dot = sum(|x, y| x * y);
    match distance {
        Distance::Dot => dot,
        Distance::Cosine => {
            let norms =
                a.iter().map(|x| x * x).sum::<f32>().sqrt() * b.iter().map(|x| x * x).sum::<f32>().sqrt();
            if norms > 0.0 { dot / norms } else { 0.0 }
        }
        Distance::Euclid => sum(|x, y| (x - y) * (x - y)).sqrt(),
        Distance::Manhattan => sum(|x, y| (x - y).abs()),
    }
}

fn run(distance: Distance, seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::new(distance);
    for step in 0..steps {
        world.step(&mut rng);
        if step % 7 == 6 {
            world.check(&mut rng);
        }
        if rng.random_bool(0.03) {
            let cleanly = rng.random_bool(0.5);
            world.restart(cleanly);
            world.check(&mut rng);
        }
    }
    world.restart(true);
    world.check(&mut rng);
}

#[test]
fn dot_agrees_with_the_model() {
    (0..6).for_each(|seed| run(Distance::Dot, seed, 150));
}

#[test]
fn euclid_agrees_with_the_model() {
    (10..16).for_each(|seed| run(Distance::Euclid, seed, 150));
}

#[test]
fn manhattan_and_cosine_agree_with_the_model() {
    (20..23).for_each(|seed| run(Distance::Manhattan, seed, 150));
    (30..33).for_each(|seed| run(Distance::Cosine, seed, 150));
}
