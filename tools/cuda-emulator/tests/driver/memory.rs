//! Device and page-locked memory.

use super::context;

#[test]
fn data_comes_back_as_it_went() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let there = stream.clone_htod(&[1.5f32, -2.0, 3.25]).unwrap();
    assert_eq!(stream.clone_dtoh(&there).unwrap(), [1.5, -2.0, 3.25]);
    assert!(context.name().unwrap().starts_with("Emulated"));
}
