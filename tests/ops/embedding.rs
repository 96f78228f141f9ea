//! Tests of the op `embedding`.

#[cfg(has_cuda)]
pub mod cuda;

use patarm::ops::Cpu;
use patarm::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use patarm::random::Stream;

use crate::ops::numbers::{bits, normal, on_threads, refused};

fn backward(start: &[f32], d_out: &[f32], ids: &[u32], hidden: usize) -> Vec<f32> {
    let mut d_table = start.to_vec();
    let vocab = start.len() / hidden;
    let tokens = ids.len();
    Cpu.embedding_backward(EmbeddingBackward { d_table: &mut d_table, d_out, ids, tokens, hidden, vocab }).unwrap();
    d_table
}

#[test]
fn forward_copies_rows() {
    let (vocab, hidden) = (7, 5);
    let table = normal(1, vocab * hidden);
    let ids = [6u32, 0, 3, 3];
    let mut out = vec![0.0f32; ids.len() * hidden];
    Cpu.embedding_forward(EmbeddingForward { out: &mut out, table: &table, ids: &ids, tokens: 4, hidden, vocab })
        .unwrap();
    for (row, id) in out.chunks(hidden).zip(ids) {
        assert_eq!(row, &table[id as usize * hidden..][..hidden]);
    }
}

#[test]
fn backward_adds_the_rows_of_an_id_in_the_order_of_tokens() {
    for (vocab, hidden, tokens) in [(1, 3, 9), (11, 17, 400), (5000, 4, 3000)] {
        let stream = Stream::new(5);
        let ids: Vec<u32> = (0..tokens as u32).map(|i| stream.below(i, vocab) as u32).collect();
        let (start, d_out) = (normal(1, vocab * hidden), normal(2, tokens * hidden));
        let mut expected = start.clone();
        for (id, row) in ids.iter().zip(d_out.chunks(hidden)) {
            let to = &mut expected[*id as usize * hidden..][..hidden];
            to.iter_mut().zip(row).for_each(|(to, from)| *to += from);
        }
        let got = || bits(&backward(&start, &d_out, &ids, hidden));
        assert_eq!(on_threads(1, got), bits(&expected));
        assert_eq!(on_threads(3, got), bits(&expected));
    }
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    let mut out = [0.0f32; 4];
    let args: EmbeddingForward<Cpu> =
        EmbeddingForward { out: &mut out[..], table: &[0.0; 6], ids: &[1, 3], tokens: 2, hidden: 2, vocab: 3 };
    let message = refused(Cpu.embedding_forward(args));
    assert!(message.contains("`ids[1]`") && message.contains("got 3"), "{message}");
}
