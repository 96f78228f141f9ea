//! Graphs: commands recorded by a capture, instantiated once and replayed many times.

use std::ffi::c_void;
use std::sync::Arc;

use super::command::Command;
use super::context::Context;
use super::entry::{Out, entry};
use super::handle::Kind;
use super::queue::TaskId;
use super::registry;
use super::status::{Answer, Status};
use super::stream::on_stream;

const AUTO_FREE_ON_LAUNCH: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const USE_NODE_PRIORITY: u64 = 8;

/// One recorded command and the earlier nodes that it depends on.
pub struct Node {
    pub after: Vec<usize>,
    pub command: Command,
}

/// The result of a capture.
pub struct Graph {
    nodes: Arc<Vec<Node>>,
}

impl Graph {
    /// A graph of these nodes.
    pub fn new(nodes: Vec<Node>) -> Self {
        Graph { nodes: Arc::new(nodes) }
    }
}

/// An instantiated graph.
pub struct GraphExec {
    nodes: Arc<Vec<Node>>,
    /// The last task of the latest replay; the next replay of the same graph waits for it.
    last: Option<TaskId>,
}

impl Context {
    fn instantiate(&mut self, graph: *mut c_void, flags: u64) -> Answer<u32> {
        if flags & !(AUTO_FREE_ON_LAUNCH | UPLOAD | DEVICE_LAUNCH | USE_NODE_PRIORITY) != 0
            || flags & AUTO_FREE_ON_LAUNCH != 0 && flags & DEVICE_LAUNCH != 0
        {
            return Err(Status::INVALID_VALUE
                .because(format!("instantiation flags {flags:#x} are unknown or contradict each other")));
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(Status::NOT_SUPPORTED.because("graphs cannot be launched from the device here"));
        }
        let serial = self.serial(graph, Kind::Graph)?;
        let graph =
            self.graphs.get(&serial).ok_or_else(|| Status::INVALID_HANDLE.because("the graph was destroyed"))?;
        let exec = GraphExec { nodes: graph.nodes.clone(), last: None };
        let serial = self.new_serial();
        self.graph_execs.insert(serial, exec);
        Ok(serial)
    }

    fn exec(&mut self, handle: *mut c_void) -> Answer<&mut GraphExec> {
        let serial = self.serial(handle, Kind::GraphExec)?;
        let exec = self.graph_execs.get_mut(&serial);
        exec.ok_or_else(|| Status::INVALID_HANDLE.because("the instantiated graph was destroyed"))
    }

    /// Submits every node as a separate task, after the stream's earlier work and before its later work. Nodes without
    /// a dependency may run in any order.
    fn launch_graph(&mut self, exec: *mut c_void, stream: u32) -> Answer {
        self.refuse_on_capturing(stream, "launching a graph into a stream that is capturing")?;
        let replayed = self.exec(exec)?;
        let (nodes, last) = (replayed.nodes.clone(), replayed.last);
        self.refuse_implicit_capture(stream)?;
        let mut start = self.before_next(stream)?;
        start.extend(last);
        let mut tasks: Vec<TaskId> = Vec::with_capacity(nodes.len());
        for node in nodes.iter() {
            let after: Vec<TaskId> = match node.after.is_empty() {
                true => start.clone(),
                false => node.after.iter().map(|&before| tasks[before]).collect(),
            };
            tasks.push(self.enqueue(&after, node.command.clone())?);
        }
        tasks.extend(start);
        let end = self.enqueue(&tasks, Command::Nothing)?;
        self.exec(exec)?.last = Some(end);
        self.stream(stream)?.last = Some(end);
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(slot: Out<*mut c_void>, graph: *mut c_void, flags: u64) -> u32 {
    entry("cuGraphInstantiate", || {
        registry::with_owner(graph, Kind::Graph, |context, _| {
            let exec = context.instantiate(graph, flags)?;
            slot.put(context.handle(exec, Kind::GraphExec))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(exec: *mut c_void, stream: *mut c_void) -> u32 {
    entry("cuGraphLaunch", || on_stream(stream, |context, serial| context.launch_graph(exec, serial)))
}

/// There is nothing to upload; the handles are checked.
#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(exec: *mut c_void, stream: *mut c_void) -> u32 {
    entry("cuGraphUpload", || on_stream(stream, |context, _| context.exec(exec).map(|_| ())))
}

/// A pending replay still runs, because its tasks own their commands.
#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(exec: *mut c_void) -> u32 {
    entry("cuGraphExecDestroy", || {
        registry::with_owner(exec, Kind::GraphExec, |context, serial| {
            context.exec(exec)?;
            context.graph_execs.remove(&serial);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: *mut c_void) -> u32 {
    entry("cuGraphDestroy", || {
        registry::with_owner(graph, Kind::Graph, |context, serial| match context.graphs.remove(&serial) {
            Some(_) => Ok(()),
            None => Err(Status::INVALID_HANDLE.because("the graph was already destroyed")),
        })
    })
}

/// Only counts the nodes: they have no handles here, so the list must not be requested.
#[unsafe(no_mangle)]
extern "C" fn cuGraphGetNodes(graph: *mut c_void, nodes: *mut c_void, count: Out<usize>) -> u32 {
    entry("cuGraphGetNodes", || {
        if !nodes.is_null() {
            return Err(Status::NOT_SUPPORTED.because("nodes have no handles; pass null to count them"));
        }
        registry::with_owner(graph, Kind::Graph, |context, serial| {
            let graph = context.graphs.get(&serial);
            count.put(graph.ok_or_else(|| Status::INVALID_HANDLE.because("the graph was destroyed"))?.nodes.len())
        })
    })
}
