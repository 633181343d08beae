//! The addresses of this machine's network interfaces.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

use crate::cluster::Dedicated;

/// This machine's address in that network; the lowest, if it has several there.
#[must_use]
pub fn own_in(network: Dedicated) -> Option<IpAddr> {
    let own = getifaddrs().ok()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    own.filter(|address| network.contains(*address)).min()
}

#[cfg(test)]
mod tests {
    use super::own_in;

    #[test]
    fn the_loopback_address_is_found_in_its_network() {
        let network = "127.0.0.0/8".parse().expect("is one");
        assert_eq!(own_in(network), Some([127, 0, 0, 1].into()));
        assert_eq!(own_in("203.0.113.0/24".parse().expect("is one")), None);
    }
}
