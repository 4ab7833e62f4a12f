//! What two sorted lists do not have in common.

use std::cmp::Ordering;

/// What is only in `a`, and what is only in `b`; both sorted, each element once.
pub(crate) fn difference<T: Ord + Copy>(mut a: &[T], mut b: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut only_a, mut only_b) = (Vec::new(), Vec::new());
    while let ([left, rest_of_a @ ..], [right, rest_of_b @ ..]) = (a, b) {
        match left.cmp(right) {
            Ordering::Less => {
                only_a.push(*left);
                a = rest_of_a;
            }
            Ordering::Greater => {
                only_b.push(*right);
                b = rest_of_b;
            }
            Ordering::Equal => (a, b) = (rest_of_a, rest_of_b),
        }
    }
    only_a.extend_from_slice(a);
    only_b.extend_from_slice(b);
    (only_a, only_b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_own() {
        assert_eq!(difference(&[1, 2, 4, 6], &[2, 3, 6, 7]), (vec![1, 4], vec![3, 7]));
        assert_eq!(difference(&[1, 2], &[]), (vec![1, 2], vec![]));
        assert_eq!(difference(&[], &[1]), (vec![], vec![1]));
        assert_eq!(difference(&[1], &[1]), (vec![], vec![]));
    }
}
