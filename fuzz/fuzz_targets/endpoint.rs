//! Any datagrams from any address to an endpoint that has peers: no panic, and nothing is sent to a
//! stranger.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use prism_net::{
    Batch, Endpoint, EndpointConfig, Host, Limits, NodeAddress, Protection, RegionInfo, Snapshot, Step,
};
use prism_proto::{Epoch, Instant, NodeId, Notice, Position, Refusal, RegionId, Retry, Seq};

struct Nobody;

impl Host for Nobody {
    fn apply(&mut self, _: RegionId, _: Epoch, _: Batch) {}
    fn read_position(&mut self, _: RegionId) {}
    fn fetch(&mut self, _: Seq, _: Seq) {}
    fn verify(&mut self, _: RegionId, _: Position) {}
    fn direct(&mut self, _: RegionId, _: Seq, _: Seq) {}
    fn acked(&mut self, _: RegionId, _: Position, _: Seq) {}
    fn refused(&mut self, _: RegionId, _: Refusal) {}
    fn refusal_told(&mut self, _: RegionId, _: Epoch, _: Seq) {}
    fn notify(&mut self, _: Notice) {}
    fn snapshot(&mut self, _: &Snapshot) {}
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fuzz_target!(|datagrams: Vec<(u8, Vec<u8>)>| {
    let node = |name: &str, region, port| NodeAddress {
        name: name.to_owned(),
        region: RegionId(region),
        udp: address(port),
        public_keys: Vec::new(),
    };
    let region = |name: &str| RegionInfo {
        name: name.to_owned(),
        direct: true,
    };
    let config = EndpointConfig {
        me: NodeId(0),
        nodes: vec![node("NA1", 0, 1), node("EU1", 1, 2), node("EU2", 1, 3)],
        regions: vec![region("NA"), region("EU")],
        retry: Retry::default(),
        limits: Limits {
            window: 16,
            window_bytes: 64 << 10,
            max_update: 16 << 10,
            payload_bytes: 64 << 10,
            payload_count: 64,
            ..Limits::default()
        },
        seed: 1,
        cluster: "fuzz".to_owned(),
        protection: Protection::Open,
        boot: 1,
        catalogue: 0,
    };
    let mut endpoint = Endpoint::new(&config).expect("the configuration is fine");
    let mut buffer = vec![0; endpoint.max_datagram()];
    for (i, (port, datagram)) in datagrams.iter().take(64).enumerate() {
        let now = Instant::from_micros(1 + i as u64 * 1000);
        endpoint.handle_datagram(now, address(u16::from(*port)), datagram);
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 10_000, "poll does not come to a wait");
            match endpoint.poll(now, &mut Nobody, &mut buffer) {
                Step::Transmit { len, .. } => assert!(len <= buffer.len()),
                Step::Wait { .. } => break,
                #[allow(unreachable_patterns)]
                _ => {}
            }
        }
    }
});
