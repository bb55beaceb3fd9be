//! Hosts around one router. Whatever passes between them, UDP and TCP alike, passes the router, and
//! its packet filter decides what gets lost.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::Value;

use crate::namespace::Namespace;

/// A machine: a namespace with an address.
#[derive(Debug)]
pub struct Host {
    pub address: Ipv4Addr,
    pub namespace: Namespace,
}

/// What happens to packets from some hosts to some others.
#[derive(Debug, Clone)]
pub struct Fault {
    pub from: Vec<usize>,
    pub to: Vec<usize>,
    /// How many of a thousand are lost.
    pub lost: u32,
}

/// The hosts, site by site: those of site `s` are `s * PER_SITE ..`.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    router: Namespace,
}

/// Hosts at one site.
pub const PER_SITE: usize = 3;

/// What passes between hosts of one site is neither lost nor counted. `carried` counts what has
/// passed between sites, `lost` what has not.
const FILTER: &str = r#"
table ip wan {
    counter carried { }
    counter lost { }
    chain faults { }
    chain forward {
        type filter hook forward priority 0; policy accept;
        SITES
        jump faults
        counter name "carried"
    }
}"#;

impl Network {
    pub fn new(sites: usize) -> Self {
        let namespace = || Namespace::new().expect("a namespace");
        let router = namespace();
        let mut hosts = Vec::new();
        let mut commands = String::new();
        let mut local = String::new();
        for site in 0..sites {
            let prefix = Ipv4Addr::new(10, 88, third(site, 0), 0);
            writeln!(local, "ip saddr {prefix}/20 ip daddr {prefix}/20 accept").expect("a String");
            for host in 0..PER_SITE {
                let net = third(site, host);
                let host = Host {
                    address: Ipv4Addr::new(10, 88, net, 1),
                    namespace: namespace(),
                };
                let path = host.namespace.path();
                let path = path.display();
                writeln!(
                    commands,
                    "link add h{net} type veth peer name wan netns {path}\n\
                     addr add 10.88.{net}.254/24 dev h{net}\n\
                     link set h{net} up"
                )
                .expect("a String");
                hosts.push(host);
            }
        }
        router.ip(&commands);
        router.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router forwards");
        });
        router.nft(&FILTER.replace("SITES", &local));
        for host in &hosts {
            let [a, b, net, _] = host.address.octets();
            // One datagram is one packet: a sender's batch must not be lost as a whole.
            host.namespace.ip(&format!(
                "addr add {}/24 dev wan\n\
                 link set wan gso_max_segs 1 up\n\
                 route add default via {a}.{b}.{net}.254",
                host.address
            ));
        }
        Self { hosts, router }
    }

    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    /// From now on these faults and no others. The first one that concerns a packet and takes it
    /// wins.
    pub fn faults(&self, faults: &[Fault]) {
        let mut script = String::from("flush chain ip wan faults\n");
        for fault in faults {
            let (from, to) = (self.set(&fault.from), self.set(&fault.to));
            let chance = match fault.lost {
                1000.. => String::new(),
                lost => format!("numgen random mod 1000 < {lost}"),
            };
            writeln!(
                script,
                "add rule ip wan faults ip saddr {from} ip daddr {to} {chance} \
                 counter name \"lost\" drop"
            )
            .expect("a String");
        }
        self.router.nft(&script);
    }

    fn set(&self, hosts: &[usize]) -> String {
        let list: Vec<String> = hosts
            .iter()
            .map(|h| self.hosts[*h].address.to_string())
            .collect();
        format!("{{ {} }}", list.join(", "))
    }

    /// Packets that have passed between sites, and that were lost.
    pub fn packets(&self) -> (u64, u64) {
        let text = self.router.nft_counters("wan");
        let json: Value = serde_json::from_str(&text).expect("nft prints JSON");
        let count = |name: &str| {
            let all = json["nftables"].as_array().into_iter().flatten();
            let mut named = all.filter(|e| e["counter"]["name"] == name);
            let one = named.next().and_then(|e| e["counter"]["packets"].as_u64());
            one.unwrap_or_else(|| panic!("no counter {name} in {text}"))
        };
        (count("carried"), count("lost"))
    }
}

/// The third number of a host's address: a site is a prefix of 20 bits.
fn third(site: usize, host: usize) -> u8 {
    u8::try_from(site * 16 + host).expect("few sites")
}
