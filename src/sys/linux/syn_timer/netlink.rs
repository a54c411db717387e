//! Questions to the kernel's routing socket, and one answer each (rtnetlink(7)).

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

/// A socket for questions, in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(ANSWER_BYTES) })
    }

    /// Asks one question.
    pub(super) fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let missing = || Err(io::ErrorKind::InvalidData.into());
        self.ask_all(std::iter::once(question))?.pop().unwrap_or_else(missing)
    }

    /// Asks a few at a time; the kernel has answered when sending returns, and its answers have
    /// to find room.
    pub(super) fn ask_all(
        &mut self,
        questions: impl Iterator<Item = RouteNetlinkMessage>,
    ) -> io::Result<Vec<io::Result<RouteNetlinkMessage>>> {
        let first = self.sequence.wrapping_add(1);
        self.buffer.clear();
        for question in questions {
            self.sequence = self.sequence.wrapping_add(1);
            let mut message = NetlinkMessage::from(question);
            message.header.flags = NLM_F_REQUEST;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let begin = self.buffer.len();
            self.buffer.resize(begin + message.buffer_len(), 0);
            message.serialize(&mut self.buffer[begin..]);
        }
        let asked = self.sequence.wrapping_sub(first).wrapping_add(1);
        self.socket.send(&self.buffer, 0)?;
        let mut answers: Vec<_> = (0..asked).map(|_| None).collect();
        let mut missing = answers.len();
        while missing > 0 {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let answer = NetlinkMessage::deserialize(&self.buffer).map_err(io::Error::other)?;
            let number = answer.header.sequence_number.wrapping_sub(first);
            // An answer left over from questions that failed half-way is none of these.
            let place = usize::try_from(number).ok().and_then(|number| answers.get_mut(number));
            if let Some(place) = place
                && place.replace(content(answer)).is_none()
            {
                missing -= 1;
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

fn content(answer: NetlinkMessage<RouteNetlinkMessage>) -> io::Result<RouteNetlinkMessage> {
    match answer.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Longest answer: `NLMSG_GOODSIZE` of the kernel is a page, or 8 KiB.
const ANSWER_BYTES: usize = 32 * 1_024;
