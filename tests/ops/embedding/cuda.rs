//! Embedding on the CUDA device: the CPU's bits.

use half::bf16;
use patarm::cuda::Cuda;
use patarm::ops::embedding::{Embedding, EmbeddingBackward, EmbeddingForward};
use patarm::random::Stream;
use patarm::tensor::Device;

use crate::common::devices::{devices, download, narrow, rounded, upload, widen};
use crate::ops::numbers::{bits, normal};

/// (vocabulary, width, tokens): one of each, odd widths, wider than a warp's columns, ids that occur often and rarely.
const SIZES: [(usize, usize, usize); 6] =
    [(1, 3, 9), (7, 5, 1), (11, 17, 400), (3, 264, 70), (40, 257, 65), (5000, 8, 300)];

fn ids(vocab: usize, tokens: usize) -> Vec<u32> {
    let stream = Stream::new(5);
    (0..tokens as u32).map(|i| stream.below(i, vocab) as u32).collect()
}

fn forward(device: &Cuda, table: &[f32], ids: &[u32], hidden: usize) -> Vec<f32> {
    let (tokens, vocab) = (ids.len(), table.len() / hidden);
    let (table, ids) = (upload(device, table), upload(device, ids));
    let mut out = upload(device, &vec![bf16::ONE; tokens * hidden]);
    let args = EmbeddingForward {
        out: device.view_mut(&mut out, 0..tokens * hidden),
        table: device.view(&table, 0..vocab * hidden),
        ids: device.view(&ids, 0..tokens),
        tokens,
        hidden,
        vocab,
    };
    device.embedding_forward(args).unwrap();
    widen(&download(device, &out))
}

/// The table's gradient starts `offset` elements into its buffer.
fn backward(device: &Cuda, start: &[f32], d_out: &[f32], ids: &[u32], hidden: usize, offset: usize) -> Vec<f32> {
    let (tokens, vocab) = (ids.len(), start.len() / hidden);
    let mut d_table = upload(device, &[&vec![f32::NAN; offset], start].concat());
    let (d_out, ids) = (upload(device, &narrow(d_out)), upload(device, ids));
    let args = EmbeddingBackward {
        d_table: device.view_mut(&mut d_table, offset..offset + vocab * hidden),
        d_out: device.view(&d_out, 0..tokens * hidden),
        ids: device.view(&ids, 0..tokens),
        tokens,
        hidden,
        vocab,
    };
    device.embedding_backward(args).unwrap();
    download(device, &d_table)[offset..].to_vec()
}

#[test]
fn forward_rounds_rows_and_backward_has_the_cpus_bits() {
    for device in devices() {
        for size in SIZES {
            assert_has_the_cpus_bits(device, size);
        }
    }
}

pub fn assert_has_the_cpus_bits(device: &Cuda, (vocab, hidden, tokens): (usize, usize, usize)) {
    let (table, ids) = (normal(1, vocab * hidden), ids(vocab, tokens));
    let expected: Vec<f32> = ids.iter().flat_map(|id| rounded(&table[*id as usize * hidden..][..hidden])).collect();
    assert!(forward(device, &table, &ids, hidden) == expected, "{device:?}, rows of {vocab} {hidden} {tokens}");
    let d_out = rounded(&normal(2, tokens * hidden));
    let expected = bits(&super::backward(&table, &d_out, &ids, hidden));
    for offset in [0, 1] {
        let got = bits(&backward(device, &table, &d_out, &ids, hidden, offset));
        let wrong = (0..got.len()).find(|i| got[*i] != expected[*i]);
        assert_eq!(wrong, None, "{device:?}, gradient of {vocab} {hidden} {tokens}, {offset} elements on");
    }
}

#[test]
fn an_id_outside_the_vocabulary_gives_nan_and_harms_nothing_else() {
    let (vocab, hidden, ids) = (3, 8, [1u32, 3, u32::MAX, 2]);
    let (table, d_out) = (normal(1, vocab * hidden), rounded(&normal(2, 4 * hidden)));
    for device in devices() {
        let out = forward(device, &table, &ids, hidden);
        let lost: Vec<bool> = out.chunks(hidden).map(|row| row.iter().all(|x| x.is_nan())).collect();
        assert_eq!(lost, [false, true, true, false]);
        let kept = [&d_out[..hidden], &d_out[3 * hidden..]].concat();
        let expected = super::backward(&table, &kept, &[1, 2], hidden);
        assert_eq!(backward(device, &table, &d_out, &ids, hidden, 0), expected);
    }
}

#[test]
fn an_empty_batch_is_fine() {
    let device = &devices()[0];
    let table = normal(1, 6);
    assert!(forward(device, &table, &[], 2).is_empty());
    assert_eq!(backward(device, &table, &[], &[], 2, 0), table);
}
