//! Whether there is a placement at all, by trying every one.

use millrace_common::application::ResourcesSpec;
use millrace_common::resources::Resources;

/// What needs places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) driver: Resources,
    pub(crate) executor: Resources,
    pub(crate) num_executors: u32,
}

impl Shape {
    pub(crate) fn of(resources: &ResourcesSpec) -> Self {
        Self {
            driver: resources.driver,
            executor: resources.executor,
            num_executors: resources.executors.min,
        }
    }

    /// True when the driver and all executors find places in these rooms, in whatever way.
    pub(crate) fn has_place(self, rooms: &[Resources]) -> bool {
        (0..rooms.len()).any(|at| {
            let mut rooms = rooms.to_vec();
            let Some(left) = rooms[at].checked_sub(self.driver) else { return false };
            rooms[at] = left;
            self.place(&mut rooms, 0, self.num_executors)
        })
    }

    /// Executors are alike, so that the next never has to go before the last one's room.
    fn place(self, rooms: &mut [Resources], first: usize, missing: u32) -> bool {
        if missing == 0 {
            return true;
        }
        (first..rooms.len()).any(|at| {
            let before = rooms[at];
            let Some(left) = before.checked_sub(self.executor) else { return false };
            rooms[at] = left;
            let found = self.place(rooms, at, missing - 1);
            rooms[at] = before;
            found
        })
    }
}
