//! What must hold for any bytes that a peer may send: no panic, nothing larger than the message, and what is taken
//! can be sent on and is understood as the same.

use bgp_packet::*;

/// The session of an input, by the bits of its first octet.
pub fn context(bits: u8) -> UpdateContext {
    let on = |bit: u8| bits >> bit & 1 == 1;
    UpdateContext { as4: on(0), internal: on(1), add_path: [on(2), on(3)], v4_over_v6: on(4) }
}

/// Reads an input: session, type of message, body; or a stream of messages when the type is above 127.
pub fn check(data: &[u8]) {
    let [session, kind, body @ ..] = data else { return };
    let context = context(*session);
    if *kind > 127 {
        return stream(body, context);
    }
    let Ok(len) = u16::try_from(HEADER_LEN + body.len()) else { return };
    stream(&[&[0xff; 16][..], &len.to_be_bytes(), &[*kind], body].concat(), context);
}

fn stream(mut bytes: &[u8], context: UpdateContext) {
    while let Ok(Some(found)) = frame(bytes, MAX_EXTENDED_LEN) {
        assert!(found.len >= HEADER_LEN && found.len <= bytes.len());
        bytes = &bytes[found.len..];
        match found.parse(context) {
            Ok(message) => understood(&message, context),
            Err(error) => {
                let mut answer = Vec::new();
                error.notification.encode(&mut answer);
                assert!(answer.len() <= MAX_LEN && !error.to_string().is_empty());
                return;
            }
        }
    }
}

fn understood(message: &Message<'_>, context: UpdateContext) {
    match message {
        Message::Open(open) => {
            let mut bytes = Vec::new();
            open.encode(&mut bytes);
            let found = frame(&bytes, MAX_LEN).expect("ours").expect("whole");
            let Ok(Message::Open(again)) = found.parse(context) else { panic!("our OPEN is none") };
            let kept = again.capabilities.len();
            assert!(kept == open.capabilities.len() || bytes.len() > MAX_LEN - 300);
            let _ = (open.role(), open.add_path(Family::Ipv4), open.long_lived(Family::Ipv6));
            let _ = (open.graceful_restart(), open.takes_v4_over_v6(), open.speaks(Family::Ipv6));
        }
        Message::Notification(notification) => {
            assert!(!notification.to_string().is_empty());
            let _ = notification.hard_reset_cause();
        }
        Message::RouteRefresh(refresh) => refresh.encode(&mut Vec::new()),
        Message::Keepalive => {}
        Message::Update(update) => routes(update, context),
    }
}

fn routes(update: &Update<'_>, context: UpdateContext) {
    let lists =
        [Some(update.withdrawn), Some(update.nlri), update.mp_unreach, update.mp_reach.map(|mp| mp.nlri)];
    for nlri in lists.into_iter().flatten() {
        assert_eq!(nlri.paths().count() == 0, nlri.is_empty());
        assert!(nlri.iter().all(|prefix| prefix.family() == nlri.family()));
    }
    let worst = update.problem.map(|p| p.disposition);
    assert_ne!(worst, Some(Disposition::SessionReset), "that is an error, not a problem");
    assert_eq!(update.disabled != [false; 2], worst == Some(Disposition::AfiSafiDisable));
    if update.is_treat_as_withdraw() {
        return;
    }
    if update.end_of_rib().is_some() {
        assert!(lists.into_iter().flatten().all(|nlri| nlri.is_empty()));
    }
    let classic = update.attributes.next_hop.map(|a| (NextHop::V4(a), update.nlri));
    let mp = update.mp_reach.map(|mp| (mp.next_hop, mp.nlri));
    for (next_hop, nlri) in [classic, mp].into_iter().flatten().filter(|(_, nlri)| !nlri.is_empty()) {
        pass_on(&update.attributes.to_path(next_hop), nlri, context);
        let mut scratch = Vec::new();
        assert!(!update.attributes.key(next_hop, &mut scratch).is_empty());
    }
}

/// Sends routes on, and reads them again.
fn pass_on(path: &PathAttributes, nlri: Nlri<'_>, context: UpdateContext) {
    let routes: Vec<(u32, Prefix)> = nlri.paths().collect();
    let options = EncodeOptions { as4: context.as4, extended: true, add_path: context.add_path };
    let mut bytes = Vec::new();
    if encode_reach(&mut bytes, path, &routes, options).is_err() {
        return assert!(bytes.is_empty());
    }
    let (mut rest, mut read) = (&bytes[..], Vec::new());
    while let Some(found) = frame(rest, MAX_EXTENDED_LEN).expect("our header is right") {
        rest = &rest[found.len..];
        let update = Update::parse(found.body, context).expect("our UPDATE can be read");
        assert_eq!(update.problem, None);
        let (next_hop, nlri) = match update.mp_reach {
            Some(mp) => (mp.next_hop, mp.nlri),
            None => (NextHop::V4(update.attributes.next_hop.expect("ours has one")), update.nlri),
        };
        let mut again = update.attributes.to_path(next_hop);
        // Neighbouring sequences may have become one on the way by a two-octet speaker.
        assert_eq!(again.as_path.to_string(), path.as_path.to_string());
        again.as_path = path.as_path.clone();
        assert_eq!(again, *path);
        read.extend(nlri.paths());
    }
    assert_eq!(read, routes);
}
