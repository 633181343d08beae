//! Both halves of a greeting against hostile bytes: nobody without the key gets through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_core::{Net, NodeId, VolumeId};
use lockstep_format::wire::greeting::{Accepting, Acceptor, Call, ClusterKey, Dialer, Dialing, Ends, Purpose};

fuzz_target!(|bytes: &[u8]| {
    let key = ClusterKey::derive(b"fuzz");
    let mut out = Vec::new();
    let mut acceptor = Acceptor::new(key.clone(), NodeId(2), [2; 32]);
    assert!(!matches!(acceptor.receive(&mut &*bytes, &mut out), Ok(Accepting::Called(_))));

    let ends = Ends { from: NodeId(1), to: NodeId(2) };
    let call = Call { purpose: Purpose::Volume(VolumeId([3; 16])), net: Net::Ordinary, ends };
    let mut dialer = Dialer::dial(key, &call, &[1; 32], &mut out);
    assert!(!matches!(dialer.receive(&mut &*bytes, &mut out), Ok(Dialing::Greeted(_))));
});
