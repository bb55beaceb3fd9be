//! Memory is bounded, and small enough to be planned with (figures: `--example sizes`).

mod sim;

use prism_proto::*;

#[test]
fn nothing_has_grown_unnoticed() {
    assert!(size_of::<UpdateSlot>() <= 48);
    assert!(size_of::<RecvSlot>() <= 48);
    assert!(size_of::<PacketSlot>() <= 40);
    let (lane, link, inlet) = Engine::<sim::Heap>::PART_SIZES;
    assert!(
        lane <= 896 && link <= 784 && inlet <= 704,
        "{lane} {link} {inlet}"
    );
    assert!(
        size_of::<Engine<sim::Heap>>() <= 85 << 10,
        "{}",
        size_of::<Engine<sim::Heap>>()
    );
    assert_eq!(size_of::<Option<Instant>>(), 8);
}

#[test]
fn a_configuration_that_does_not_fit_is_refused() {
    let node = |i, r| NodeConfig {
        id: NodeId(i),
        region: RegionId(r),
    };
    let region = |i, key| RegionConfig {
        id: RegionId(i),
        key: RegionKey(key),
        direct: false,
    };
    let nodes = [node(0, 0), node(1, 1)];
    let regions = [region(0, 1), region(1, 2)];
    let good = Config::new(NodeId(0), &nodes, &regions, 1);
    let error = |config: &Config<'_>| Engine::new(config, &mut sim::Heap).err();
    assert_eq!(error(&good), None);
    assert_eq!(
        error(&Config {
            me: NodeId(2),
            ..good
        }),
        Some(ConfigError::BadIndex)
    );
    assert_eq!(
        error(&Config {
            nodes: &[node(1, 0)],
            ..good
        }),
        Some(ConfigError::BadIndex)
    );
    assert_eq!(
        error(&Config {
            nodes: &[node(0, 5)],
            ..good
        }),
        Some(ConfigError::BadIndex)
    );
    let twice = [region(0, 1), region(1, 1)];
    assert_eq!(
        error(&Config {
            regions: &twice,
            ..good
        }),
        Some(ConfigError::KeyCollision)
    );
    for window in [0, 1, 100, 8192] {
        assert_eq!(
            error(&Config { window, ..good }),
            Some(ConfigError::BadWindow)
        );
    }
    assert_eq!(
        error(&Config { mtu: 100, ..good }),
        Some(ConfigError::BadSize)
    );
    assert_eq!(
        error(&Config {
            max_update: 1 << 20,
            ..good
        }),
        Some(ConfigError::BadSize)
    );
    assert_eq!(
        error(&Config {
            window_bytes: 1 << 10,
            ..good
        }),
        Some(ConfigError::BadSize)
    );
    let many: Vec<_> = (0..65).map(|i| node(i, 0)).collect();
    assert_eq!(
        error(&Config {
            nodes: &many,
            ..good
        }),
        Some(ConfigError::TooManyNodes)
    );
    assert_eq!(
        error(&Config {
            nodes: &many[..17],
            ..good
        }),
        Some(ConfigError::TooManyNodes)
    );
    let many: Vec<_> = (0..17).map(|i| region(i, u32::from(i))).collect();
    assert_eq!(
        error(&Config {
            regions: &many,
            ..good
        }),
        Some(ConfigError::TooManyRegions)
    );
}
