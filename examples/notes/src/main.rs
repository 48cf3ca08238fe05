//! Keeps its arguments in `notes.db` and prints what is there: `tidelock run notes.wasm milk bread`.
//!
//! The `lunatic` crate as published, with its `sqlite` feature, and nothing of Tidelock.

use lunatic::sqlite::{Query, SqliteClient, Value};

fn main() {
    let client = SqliteClient::connect("notes.db").expect("the folder can be written to");
    client
        .execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT UNIQUE, length REAL)")
        .expect("the database can be written to");
    for text in std::env::args().skip(1) {
        let length = text.len() as f64;
        client
            .prepare_query("INSERT OR IGNORE INTO notes (text, length) VALUES (:text, :length)")
            .bind_named("length", length)
            .bind_named(":text", text)
            .execute();
    }
    for row in client.query("SELECT id, text, length, NULL FROM notes ORDER BY id") {
        let [Value::Int64(id), Value::Text(text), Value::Double(length), Value::Null] = &row[..]
        else {
            panic!("not a note: {row:?}");
        };
        println!("{id}: {text} ({length})");
    }
    let long = client
        .prepare_query("SELECT count(*) FROM notes WHERE length > ?")
        .bind(4)
        .execute();
    println!("long: {long:?}");
    let error = client
        .execute("SELECT nonsense")
        .expect_err("there is no such column");
    println!("error: {:?}", error.code);
}
