//! Short loops, several rounds at a time.
//!
//! Compiled code asks at the head of each loop whether it has to give way. In a loop of a few instructions that
//! costs more than the loop itself: what is kept in registers has to outlive the call of the host that may
//! follow. So the body of an innermost loop is repeated, and only the last copy goes back to the head:
//!
//! ```text
//! loop $next           block $out
//!   BODY        ──▶      loop $next
//! end                      block $a BODY br $out end     br $next in here is br $a
//!                          block $b BODY br $out end     br $next in here is br $b
//!                          BODY
//!                        end
//!                      end
//! ```
//!
//! Which copy runs is decided by nothing but where it is, so each round does what it did. Loops that call somebody
//! are left alone: whoever is called asks, too. So are those with an instruction that works through much at once,
//! and those that branch by instructions of proposals that are off.

use std::collections::BTreeMap;

use wasm_encoder::{BlockType, InstructionSink, ValType};
use wasmparser::{FunctionBody, Operator, Parser, Payload};

use super::{Parsed, Rewrite};

/// Copies of a body at most.
const COPIES_MAX: usize = 4;
/// Instructions of all copies of a body at most.
const INSTRUCTIONS_MAX: usize = 128;
/// Larger functions are left alone: a module's functions have a greatest length.
const FUNCTION_BYTES_MAX: usize = 256 << 10;

/// The module with short loops repeated. None: there are none.
pub(super) fn rewritten(module: &[u8]) -> Parsed<Option<Vec<u8>>> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CodeSectionEntry(body) = payload?
            && !Code::read(module, &body)?.short_loops().is_empty()
        {
            return Repeat.rewrite(module).map(Some);
        }
    }
    Ok(None)
}

struct Repeat;

impl Rewrite for Repeat {
    fn body(&self, module: &[u8], body: &FunctionBody<'_>) -> Parsed<Vec<u8>> {
        let code = Code::read(module, body)?;
        let loops = code.short_loops();
        let mut bytes = Vec::with_capacity(body.range().len());
        bytes.extend_from_slice(code.locals);
        let mut at = 0;
        while let Some(instruction) = code.instructions.get(at) {
            match loops.get(&at) {
                Some(short) => {
                    short.write(&code, &mut bytes);
                    at = short.end;
                }
                None => bytes.extend_from_slice(instruction.bytes),
            }
            at += 1;
        }
        bytes.extend_from_slice(code.rest);
        Ok(bytes)
    }
}

/// A function, instruction by instruction.
struct Code<'a> {
    locals: &'a [u8],
    instructions: Vec<Instruction<'a>>,
    /// What was not looked at.
    rest: &'a [u8],
}

struct Instruction<'a> {
    operator: Operator<'a>,
    bytes: &'a [u8],
}

/// An innermost loop.
struct ShortLoop {
    /// Its first instruction and its `end`.
    start: usize,
    end: usize,
    result: BlockType,
    copies: usize,
}

impl<'a> Code<'a> {
    fn read(module: &'a [u8], body: &FunctionBody<'a>) -> Parsed<Self> {
        let range = body.range();
        let mut code = Self {
            locals: &[],
            instructions: Vec::new(),
            rest: &module[range.clone()],
        };
        if range.len() > FUNCTION_BYTES_MAX {
            return Ok(code);
        }
        let mut operators = body.get_operators_reader()?;
        code.locals = &module[range.start..operators.original_position()];
        code.rest = &[];
        while !operators.eof() {
            let (operator, start) = operators.read_with_offset()?;
            let bytes = &module[start..operators.original_position()];
            code.instructions.push(Instruction { operator, bytes });
        }
        Ok(code)
    }

    /// By where they begin.
    fn short_loops(&self) -> BTreeMap<usize, ShortLoop> {
        let mut loops = BTreeMap::new();
        // The loop that was opened last, if it may be repeated, and how deep it is.
        let (mut depth, mut last) = (0, None);
        for (at, instruction) in self.instructions.iter().enumerate() {
            match instruction.operator {
                Operator::Block { .. } | Operator::If { .. } => depth += 1,
                Operator::Loop { blockty } => {
                    depth += 1;
                    last = result(blockty).map(|result| (at, depth, result));
                }
                Operator::End => {
                    let ended = last.take_if(|(_, opened_at, _)| *opened_at == depth);
                    if let Some((head, _, result)) = ended
                        && let Some(short) = ShortLoop::new(head, at, result)
                    {
                        loops.insert(head, short);
                    }
                    // The last one is that of the function.
                    depth = i32::max(depth - 1, 0);
                }
                Operator::Call { .. }
                | Operator::CallIndirect { .. }
                | Operator::CallRef { .. }
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::ReturnCallRef { .. } => last = None,
                Operator::MemoryFill { .. }
                | Operator::MemoryCopy { .. }
                | Operator::MemoryInit { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. }
                | Operator::TableGrow { .. } => last = None,
                // They have labels that `ShortLoop::write` does not move.
                Operator::BrOnNull { .. }
                | Operator::BrOnNonNull { .. }
                | Operator::BrOnCast { .. }
                | Operator::BrOnCastFail { .. }
                | Operator::BrOnCastDescEq { .. }
                | Operator::BrOnCastDescEqFail { .. }
                | Operator::Resume { .. }
                | Operator::ResumeThrow { .. }
                | Operator::ResumeThrowRef { .. } => last = None,
                // Blocks of proposals that are not on.
                Operator::Try { .. } | Operator::TryTable { .. } => return BTreeMap::new(),
                _ => {}
            }
        }
        loops
    }
}

/// What a loop leaves behind; None if it takes something, or leaves more than one value.
fn result(ty: wasmparser::BlockType) -> Option<BlockType> {
    use wasmparser::ValType as Parsed;
    match ty {
        wasmparser::BlockType::Empty => Some(BlockType::Empty),
        wasmparser::BlockType::Type(ty) => Some(BlockType::Result(match ty {
            Parsed::I32 => ValType::I32,
            Parsed::I64 => ValType::I64,
            Parsed::F32 => ValType::F32,
            Parsed::F64 => ValType::F64,
            Parsed::V128 => ValType::V128,
            Parsed::Ref(_) => return None,
        })),
        wasmparser::BlockType::FuncType(_) => None,
    }
}

impl ShortLoop {
    /// None: it is too long to be repeated.
    fn new(head: usize, end: usize, result: BlockType) -> Option<Self> {
        let start = head + 1;
        let copies = COPIES_MAX.min(INSTRUCTIONS_MAX / (end - start).max(1));
        (copies > 1).then_some(Self {
            start,
            end,
            result,
            copies,
        })
    }

    fn write(&self, code: &Code<'_>, bytes: &mut Vec<u8>) {
        InstructionSink::new(bytes)
            .block(self.result)
            .loop_(self.result);
        for copy in 1..=self.copies {
            let is_last = copy == self.copies;
            if !is_last {
                InstructionSink::new(bytes).block(BlockType::Empty);
            }
            // Labels of this copy and outside of the loop are this much further out.
            let further = if is_last { 1 } else { 2 };
            let mut inner = 0;
            for instruction in &code.instructions[self.start..self.end] {
                let label = |depth: u32| match depth > inner {
                    true => depth.saturating_add(further),
                    false => depth,
                };
                let mut sink = InstructionSink::new(bytes);
                match &instruction.operator {
                    Operator::Br { relative_depth } => {
                        sink.br(label(*relative_depth));
                    }
                    Operator::BrIf { relative_depth } => {
                        sink.br_if(label(*relative_depth));
                    }
                    Operator::BrTable { targets } => {
                        // Each was read before, with the instruction.
                        let depths = targets.targets().flatten().map(label);
                        let depths: Vec<u32> = depths.collect();
                        sink.br_table(depths, label(targets.default()));
                    }
                    other => {
                        match other {
                            Operator::Block { .. } | Operator::If { .. } => inner += 1,
                            Operator::End => inner -= 1,
                            _ => {}
                        }
                        bytes.extend_from_slice(instruction.bytes);
                    }
                }
            }
            if !is_last {
                InstructionSink::new(bytes).br(2).end();
            }
        }
        InstructionSink::new(bytes).end().end();
    }
}

#[cfg(test)]
mod tests {
    use wasm_smith::{Config, Module};
    use wasmtime::{Engine, Instance, Store, Val};

    use super::*;

    /// The module of this text, and the same with its loops repeated.
    fn both(text: &str) -> [Vec<u8>; 2] {
        let module = wat::parse_str(text).unwrap();
        let repeated = rewritten(&module).unwrap().expect("it has short loops");
        [module, repeated]
    }

    /// What `f` of both says to each of these, which must be the same.
    fn answers(text: &str, asked: &[i32]) -> Vec<Option<i32>> {
        let engine = Engine::default();
        let [plain, repeated] = both(text).map(|module| {
            let module = wasmtime::Module::new(&engine, module).unwrap();
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).unwrap();
            let f = instance
                .get_typed_func::<i32, i32>(&mut store, "f")
                .unwrap();
            // None: a trap.
            let answers = asked.iter().map(|n| f.call(&mut store, *n).ok());
            answers.collect::<Vec<_>>()
        });
        assert_eq!(plain, repeated, "{text}");
        plain
    }

    #[test]
    fn each_round_does_what_it_did() {
        let sum = r#"(func (export "f") (param $n i32) (result i32) (local $sum i32)
            (block $done (loop $next
                (br_if $done (i32.eqz (local.get $n)))
                (local.set $sum (i32.add (local.get $sum) (local.get $n)))
                (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                (br $next)))
            (local.get $sum))"#;
        let asked: Vec<i32> = (0..20).collect();
        let sums = answers(&format!("(module {sum})"), &asked);
        assert!(
            sums.iter()
                .zip(0..)
                .all(|(sum, n)| *sum == Some(n * (n + 1) / 2))
        );
    }

    #[test]
    fn branches_go_where_they_went() {
        // Out of one block and of several, back from inside of blocks, by a table, by returning, with a
        // value left behind, by falling out of the end, and into a trap.
        let text = r#"(module (memory 1) (func (export "f") (param $n i32) (result i32) (local $a i32)
            (block $far
                (block $near
                    (loop $next
                        (local.set $a (i32.add (local.get $a) (i32.const 3)))
                        (block $inside
                            (block $b (block $c
                                (br_table $b $c $next $near $far $inside
                                    (i32.rem_u (i32.add (local.get $a) (local.get $n)) (i32.const 7))))
                                (local.set $a (i32.mul (local.get $a) (i32.const 5)))
                                (br_if $next (i32.lt_u (local.get $a) (i32.const 1000)))
                                (return (local.get $a)))
                            (if (i32.gt_u (local.get $a) (i32.const 100))
                                (then (br $far))
                                (else (br $next))))
                        (drop (i32.load8_u (i32.mul (local.get $a) (local.get $n))))
                        (br_if $next (i32.lt_u (local.get $a) (i32.const 40)))))
                (local.set $a (i32.add (local.get $a) (i32.const 10000))))
            (local.set $n (i32.and (local.get $n) (i32.const 15)))
            (i32.add (local.get $a)
                (loop $again (result i32)
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (br_if $again (i32.gt_s (local.get $n) (i32.const 0)))
                    (local.get $n)))))"#;
        let asked: Vec<i32> = (-40..200).chain([1 << 20, i32::MIN, i32::MAX]).collect();
        let answers = answers(text, &asked);
        let mut kinds = answers.clone();
        kinds.sort_unstable();
        kinds.dedup();
        assert!(kinds.len() > 10, "{kinds:?}");
        assert!(answers.contains(&None), "none traps");
    }

    /// How often a loop is in the module, and the copies of the instruction that drops.
    fn counts(text: &str) -> (usize, usize) {
        let module = wat::parse_str(text).unwrap();
        let module = rewritten(&module).unwrap().unwrap_or(module);
        let (mut loops, mut drops) = (0, 0);
        for payload in Parser::new(0).parse_all(&module) {
            if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                for instruction in Code::read(&module, &body).unwrap().instructions {
                    match instruction.operator {
                        Operator::Loop { .. } => loops += 1,
                        Operator::Drop => drops += 1,
                        _ => {}
                    }
                }
            }
        }
        (loops, drops)
    }

    #[test]
    fn only_short_innermost_loops_that_call_nobody_are_repeated() {
        let drops = |count: usize| "(drop (i32.const 1))".repeat(count);
        // Operands, of types that do not matter here.
        let several = "i32.const 1 i32.const 1 i32.const 1";
        for (inside, found) in [
            (format!("(loop {})", drops(1)), (1, 4)),
            (format!("(loop {})", drops(16)), (1, 64)),
            (format!("(loop {})", drops(17)), (1, 3 * 17)),
            (format!("(loop {})", drops(32)), (1, 64)),
            (format!("(loop {})", drops(33)), (1, 33)),
            (format!("(loop (block {}))", drops(1)), (1, 4)),
            (format!("(loop (loop {}))", drops(1)), (2, 4)),
            (format!("(loop {0} (loop {0}) {0})", drops(1)), (2, 6)),
            (format!("(loop (loop) {})", drops(1)), (2, 1)),
            (format!("(loop (call 0) {})", drops(1)), (1, 1)),
            (format!("(loop (call 0) (loop {}))", drops(1)), (2, 4)),
            (format!("(loop (loop {}) (call 0))", drops(1)), (2, 4)),
            (format!("(loop (param i32) {} drop)", drops(1)), (1, 2)),
            (format!("(block {})", drops(1)), (0, 1)),
            (
                format!("(loop (call_ref 0 (ref.func 0)) {})", drops(1)),
                (1, 1),
            ),
            (
                format!("(loop (drop (br_on_null 0 (ref.null func))) {})", drops(1)),
                (1, 2),
            ),
            (
                format!("(loop (br_on_non_null 0 (ref.null func)) {})", drops(1)),
                (1, 1),
            ),
            (format!("(loop {several} memory.fill {})", drops(1)), (1, 1)),
            (
                format!("(loop {several} (memory.init 0) {})", drops(1)),
                (1, 1),
            ),
            (
                format!("(loop {several} (table.init 0) {})", drops(1)),
                (1, 1),
            ),
            (format!("(loop {several} table.copy {})", drops(1)), (1, 1)),
            (
                format!("(loop {several} (table.fill 0) {})", drops(1)),
                (1, 1),
            ),
            (
                format!("(loop {several} (table.grow 0) {})", drops(1)),
                (1, 1),
            ),
        ] {
            let operand = if inside.contains("param") {
                "i32.const 1"
            } else {
                ""
            };
            let text = format!("(module (func {operand} {inside}))");
            assert_eq!(counts(&text), found, "{text}");
        }
        let long = format!("(module (func (loop {}) {}))", drops(1), drops(100_000));
        let long = wat::parse_str(long).unwrap();
        assert!(rewritten(&long).unwrap().is_none());
    }

    /// Modules at random, run until they end by themselves: both forms answer the same and leave the same behind.
    #[test]
    fn modules_at_random_do_what_they_did() {
        let mut config = wasmtime::Config::new();
        config.wasm_multi_memory(false);
        let engine = Engine::new(&config).unwrap();
        let (mut random, mut repeated, mut called) = (0x9e37_79b9_7f4a_7c15_u64, 0, 0);
        for _ in 0..400 {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random.to_le_bytes()
            })
            .take(512)
            .flatten()
            .collect();
            let config = Config {
                max_imports: 0,
                min_funcs: 1,
                max_memories: 1,
                export_everything: true,
                gc_enabled: false,
                reference_types_enabled: false,
                exceptions_enabled: false,
                tail_call_enabled: false,
                threads_enabled: false,
                memory64_enabled: false,
                simd_enabled: false,
                relaxed_simd_enabled: false,
                custom_page_sizes_enabled: false,
                wide_arithmetic_enabled: false,
                shared_everything_threads_enabled: false,
                canonicalize_nans: true,
                max_memory32_bytes: 1 << 20,
                max_table_elements: 1000,
                ..Config::default()
            };
            let mut source = arbitrary::Unstructured::new(&bytes);
            let Ok(mut module) = Module::new(config, &mut source) else {
                continue;
            };
            if module.ensure_termination(1000).is_err() {
                continue;
            }
            let module = module.to_bytes();
            let Some(other) = rewritten(&module).unwrap() else {
                continue;
            };
            repeated += 1;
            let [plain, other] = [module, other].map(|module| outcomes(&engine, &module));
            called += plain.len();
            assert_eq!(plain, other);
        }
        assert!(
            repeated > 20 && called > 100,
            "{repeated} modules, {called} calls"
        );
    }

    /// What each exported function answers to zeros, and what all globals are then.
    fn outcomes(engine: &Engine, module: &[u8]) -> Vec<String> {
        let module = wasmtime::Module::new(engine, module).unwrap();
        let mut store = Store::new(engine, ());
        let Ok(instance) = Instance::new(&mut store, &module, &[]) else {
            return Vec::new();
        };
        let names: Vec<String> = module
            .exports()
            .map(|export| export.name().to_owned())
            .collect();
        let mut outcomes = Vec::new();
        for name in &names {
            let Some(function) = instance.get_func(&mut store, name) else {
                continue;
            };
            let ty = function.ty(&store);
            let zero = |ty| Val::default_for_ty(&ty);
            let Some(params) = ty.params().map(zero).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let mut results = vec![Val::I32(0); ty.results().len()];
            let ended = function.call(&mut store, &params, &mut results);
            let ended = ended.map_err(|error| error.downcast::<wasmtime::Trap>().ok());
            outcomes.push(format!("{name}: {ended:?} {results:?}"));
        }
        for name in &names {
            if let Some(global) = instance.get_global(&mut store, name) {
                let value = global.get(&mut store);
                // References have no value of their own.
                if value.ty(&store).is_ok_and(|ty| !ty.is_ref()) {
                    outcomes.push(format!("{name} = {value:?}"));
                }
            }
        }
        outcomes
    }
}
