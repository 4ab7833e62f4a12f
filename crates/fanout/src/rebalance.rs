//! How many connections one of several servers should have.

/// Fewer connections than this are never too many.
const LOWEST: usize = 400;
/// More than this are always too many.
const HIGHEST: usize = 10_000;

/// Connections that one of `servers` may keep in a cluster of `nodes`, each with `programs` connections; the others
/// could take the rest. A fifth is left for imbalance, and one server may be away. Calico's rule.
pub fn connection_limit(nodes: usize, servers: usize, programs: usize) -> usize {
    let Some(others) = servers.checked_sub(1).filter(|others| *others > 0) else { return HIGHEST };
    let share = nodes.saturating_mul(6) / 5 / others;
    programs.saturating_mul(share.saturating_add(1)).clamp(LOWEST, HIGHEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_share_and_a_fifth_more() {
        assert_eq!(connection_limit(5_000, 1, 2), HIGHEST, "nobody else could take them");
        assert_eq!(connection_limit(0, 0, 2), HIGHEST);
        assert_eq!(connection_limit(100, 3, 2), LOWEST);
        assert_eq!(connection_limit(1_000, 4, 2), 2 * 401);
        assert_eq!(connection_limit(usize::MAX, 2, 2), HIGHEST);
    }
}
