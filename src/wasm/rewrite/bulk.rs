//! Instructions that touch any amount of memory, in pieces.
//!
//! `memory.fill` and `memory.copy` are calls of the host: in one of 4 GiB a guest computes for seconds and neither
//! gives way nor can be killed. So each becomes a call of a function that is added to the module. That does
//! the same, a piece at a time, and gives way between them like any other loop. Those of a length that the code
//! itself says, and that is short, stay as they are: the compiler makes a few moves of them. So does `memory.init`:
//! it copies at most what a module may have, a few milliseconds' worth.

use std::borrow::Cow;

use wasm_encoder::{BlockType, Function, InstructionSink};
use wasmparser::{
    BinaryReader, CompositeInnerType, FunctionBody, Operator, Parser, Payload, SubType, TypeRef,
    ValType,
};

use super::{Parsed, Rewrite};

/// Bytes touched at once: some ten microseconds.
const PIECE_BYTES: i32 = 256 << 10;
/// How the binary format calls the sections that get something more.
const TYPES: u8 = 1;
const FUNCTIONS: u8 = 3;
/// A function of three numbers that returns nothing.
const THREE_NUMBERS: &[u8] = &[0x60, 3, 0x7f, 0x7f, 0x7f, 0];

/// The module with those instructions in pieces. None: there are none.
pub(super) fn rewritten(module: &[u8]) -> Parsed<Option<Vec<u8>>> {
    let numbers = Numbers::of(module)?;
    numbers.map(|n| n.rewrite(module)).transpose()
}

/// How much a module has of what is numbered; what is added comes behind it.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    types: u32,
    functions: u32,
    /// The first type that is [`THREE_NUMBERS`].
    three_numbers: Option<u32>,
}

impl Numbers {
    /// None: there is nothing to do in this module.
    fn of(module: &[u8]) -> Parsed<Option<Self>> {
        let (mut numbers, mut wanted) = (Numbers::default(), false);
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(types) => {
                    for group in types {
                        for ty in group?.types() {
                            if numbers.three_numbers.is_none() && is_three_numbers(ty) {
                                numbers.three_numbers = Some(numbers.types);
                            }
                            numbers.types += 1;
                        }
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let ty = import?.ty;
                        let is_function = matches!(ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                        numbers.functions += u32::from(is_function);
                    }
                }
                Payload::FunctionSection(functions) => numbers.functions += functions.count(),
                Payload::CodeSectionEntry(body) => of_any_amount(&body, |_, _, _| wanted = true)?,
                _ => {}
            }
        }
        Ok(wanted.then_some(numbers))
    }

    fn fill(self) -> u32 {
        self.functions
    }

    fn copy(self) -> u32 {
        self.functions + 1
    }
}

impl Rewrite for Numbers {
    fn section<'a>(&self, id: u8, data: &'a [u8]) -> Parsed<Cow<'a, [u8]>> {
        Ok(match id {
            TYPES if self.three_numbers.is_none() => longer(data, 1, THREE_NUMBERS)?.into(),
            FUNCTIONS => {
                let ty = number(self.three_numbers.unwrap_or(self.types));
                longer(data, 2, &ty.repeat(2))?.into()
            }
            _ => data.into(),
        })
    }

    fn body(&self, module: &[u8], body: &FunctionBody<'_>) -> Parsed<Vec<u8>> {
        let range = body.range();
        let (mut bytes, mut from) = (Vec::with_capacity(range.len()), range.start);
        let rest = of_any_amount(body, |operator, start, end| {
            let callee = match operator {
                Operator::MemoryFill { .. } => self.fill(),
                _ => self.copy(),
            };
            bytes.extend_from_slice(&module[from..start]);
            InstructionSink::new(&mut bytes).call(callee);
            from = end;
        });
        rest?;
        bytes.extend_from_slice(&module[from..range.end]);
        Ok(bytes)
    }

    fn added(&self) -> Vec<Function> {
        vec![fill(), copy()]
    }
}

fn is_three_numbers(ty: &SubType) -> bool {
    let plain = ty.is_final && ty.supertype_idx.is_none() && !ty.composite_type.shared;
    let CompositeInnerType::Func(function) = &ty.composite_type.inner else {
        return false;
    };
    plain && function.params() == [ValType::I32; 3] && function.results().is_empty()
}

/// Calls this for each instruction that may touch any amount of memory, with where it begins and ends.
fn of_any_amount(
    body: &FunctionBody<'_>,
    mut each: impl FnMut(Operator<'_>, usize, usize),
) -> Parsed<()> {
    let mut operators = body.get_operators_reader()?;
    let mut is_short = false;
    while !operators.eof() {
        let (operator, start) = operators.read_with_offset()?;
        // What is right before one of these is its length.
        let length = match operator {
            Operator::I32Const { value } => Some(value),
            _ => None,
        };
        if let Operator::MemoryFill { .. } | Operator::MemoryCopy { .. } = operator
            && !is_short
        {
            each(operator, start, operators.original_position());
        }
        is_short = length.is_some_and(|length| (0..=PIECE_BYTES).contains(&length));
    }
    Ok(())
}

/// A section of things that are counted, with `more` of them at its end.
fn longer(data: &[u8], more: u32, bytes: &[u8]) -> Parsed<Vec<u8>> {
    let mut reader = BinaryReader::new(data, 0);
    let mut longer = number(reader.read_var_u32()? + more);
    longer.extend_from_slice(&data[reader.original_position()..]);
    longer.extend_from_slice(bytes);
    Ok(longer)
}

fn number(value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    wasm_encoder::Encode::encode(&value, &mut bytes);
    bytes
}

/// Whether the instruction itself is right for these: it is short, or traps before it touches anything.
fn is_plain(code: &mut InstructionSink<'_>, starts: &[u32], length: u32) {
    code.local_get(length).i32_const(PIECE_BYTES).i32_le_u();
    for start in starts {
        code.local_get(*start).i64_extend_i32_u();
        code.local_get(length).i64_extend_i32_u().i64_add();
        code.memory_size(0)
            .i64_extend_i32_u()
            .i64_const(16)
            .i64_shl();
        code.i64_gt_u().i32_or();
    }
}

/// Moves a local by a piece.
fn step(code: &mut InstructionSink<'_>, local: u32, forward: bool) {
    code.local_get(local).i32_const(PIECE_BYTES);
    match forward {
        true => code.i32_add().local_set(local),
        false => code.i32_sub().local_set(local),
    };
}

/// The end of a loop that goes on while more than a piece is left.
fn again(code: &mut InstructionSink<'_>, length: u32) {
    code.local_get(length)
        .i32_const(PIECE_BYTES)
        .i32_gt_u()
        .br_if(0)
        .end();
}

/// (where, value, length)
fn fill() -> Function {
    let mut function = Function::new([]);
    let mut code = function.instructions();
    is_plain(&mut code, &[0], 2);
    code.if_(BlockType::Empty);
    code.local_get(0)
        .local_get(1)
        .local_get(2)
        .memory_fill(0)
        .return_()
        .end();
    code.loop_(BlockType::Empty);
    code.local_get(0)
        .local_get(1)
        .i32_const(PIECE_BYTES)
        .memory_fill(0);
    step(&mut code, 0, true);
    step(&mut code, 2, false);
    again(&mut code, 2);
    code.local_get(0)
        .local_get(1)
        .local_get(2)
        .memory_fill(0)
        .end();
    function
}

/// (to, from, length). From the end that is not overwritten before it was read.
fn copy() -> Function {
    let mut function = Function::new([]);
    let mut code = function.instructions();
    let rest = |code: &mut InstructionSink<'_>| {
        code.local_get(0)
            .local_get(1)
            .local_get(2)
            .memory_copy(0, 0);
    };
    is_plain(&mut code, &[0, 1], 2);
    code.if_(BlockType::Empty);
    rest(&mut code);
    code.return_().end();
    code.local_get(0)
        .local_get(1)
        .i32_le_u()
        .if_(BlockType::Empty);
    code.loop_(BlockType::Empty);
    code.local_get(0)
        .local_get(1)
        .i32_const(PIECE_BYTES)
        .memory_copy(0, 0);
    step(&mut code, 0, true);
    step(&mut code, 1, true);
    step(&mut code, 2, false);
    again(&mut code, 2);
    code.else_().loop_(BlockType::Empty);
    step(&mut code, 2, false);
    code.local_get(0).local_get(2).i32_add();
    code.local_get(1).local_get(2).i32_add();
    code.i32_const(PIECE_BYTES).memory_copy(0, 0);
    again(&mut code, 2);
    code.end();
    rest(&mut code);
    code.end();
    function
}

#[cfg(test)]
mod tests {
    use wasmtime::{Engine, Instance, Memory, Store, TypedFunc};

    use super::*;

    const MEMORY_BYTES: usize = 2 << 20;

    struct Guest {
        store: Store<()>,
        memory: Memory,
        fill: TypedFunc<(u32, u32, u32), ()>,
        copy: TypedFunc<(u32, u32, u32), ()>,
    }

    impl Guest {
        fn new() -> Self {
            let text = r#"(module
                (import "" "" (func $unused (param i64)))
                (memory (export "memory") 32)
                (func (export "fill") (param i32 i32 i32)
                    local.get 0 local.get 1 local.get 2 memory.fill)
                (func (export "copy") (param i32 i32 i32)
                    local.get 0 local.get 1 local.get 2 memory.copy)
                (data (i32.const 0) "data"))"#;
            let module = wat::parse_str(text).unwrap();
            let rewritten = rewritten(&module).unwrap().expect("there is one of each");
            assert_eq!(Numbers::of(&rewritten).unwrap().unwrap().functions, 5);
            // Neither instruction is left but in what was added.
            for payload in Parser::new(0).parse_all(&rewritten) {
                if let Payload::CodeSectionEntry(body) = payload.unwrap() {
                    let mut is_left = false;
                    of_any_amount(&body, |_, _, _| is_left = true).unwrap();
                    assert_eq!(is_left, body.range().len() > 40);
                }
            }
            let engine = Engine::default();
            let module = wasmtime::Module::new(&engine, &rewritten).unwrap();
            let mut store = Store::new(&engine, ());
            let unused = wasmtime::Func::wrap(&mut store, |_: i64| {});
            let instance = Instance::new(&mut store, &module, &[unused.into()]).unwrap();
            Guest {
                memory: instance.get_memory(&mut store, "memory").unwrap(),
                fill: instance.get_typed_func(&mut store, "fill").unwrap(),
                copy: instance.get_typed_func(&mut store, "copy").unwrap(),
                store,
            }
        }

        /// Puts a pattern into the memory and returns a copy of it.
        fn patterned(&mut self) -> Vec<u8> {
            let pattern = |at: usize| (at ^ (at >> 8) ^ (at >> 16)) as u8;
            let bytes: Vec<u8> = (0..MEMORY_BYTES).map(pattern).collect();
            self.memory
                .data_mut(&mut self.store)
                .copy_from_slice(&bytes);
            bytes
        }
    }

    #[test]
    fn what_is_filled_and_copied_in_pieces_is_what_was_asked_for() {
        let mut guest = Guest::new();
        let piece = PIECE_BYTES as usize;
        for length in [0, 1, piece - 1, piece, piece + 1, 2 * piece, 3 * piece + 5] {
            for start in [0, 7, MEMORY_BYTES - length] {
                let mut wanted = guest.patterned();
                wanted[start..start + length].fill(0xab);
                let asked = (start as u32, 0x1ab, length as u32);
                guest.fill.call(&mut guest.store, asked).unwrap();
                assert!(guest.memory.data(&guest.store) == wanted, "{asked:x?}");
            }
            for (to, from) in [
                (9, 9),
                (0, 1),
                (1, 0),
                (0, piece),
                (piece, 0),
                (7, piece + 8),
                (piece + 8, 7),
                (0, MEMORY_BYTES - length),
                (MEMORY_BYTES - length, 0),
            ] {
                let mut wanted = guest.patterned();
                wanted.copy_within(from..from + length, to);
                let asked = (to as u32, from as u32, length as u32);
                guest.copy.call(&mut guest.store, asked).unwrap();
                assert!(guest.memory.data(&guest.store) == wanted, "{asked:x?}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_traps_before_anything_is_written() {
        let mut guest = Guest::new();
        let end = MEMORY_BYTES as u32;
        let wanted = guest.patterned();
        for (start, length) in [
            (end, 1),
            (0, end + 1),
            (1, end),
            (end - 1, 2),
            (end - 300_000, 300_001),
            (u32::MAX, 1),
            (1, u32::MAX),
            (u32::MAX, u32::MAX),
        ] {
            let calls = [
                guest.fill.call(&mut guest.store, (start, 1, length)),
                guest.copy.call(&mut guest.store, (start, 0, length)),
                guest.copy.call(&mut guest.store, (0, start, length)),
            ];
            for call in calls {
                let trap = call.unwrap_err();
                assert_eq!(
                    trap.downcast_ref(),
                    Some(&wasmtime::Trap::MemoryOutOfBounds),
                    "{start} {length}"
                );
            }
        }
        assert!(guest.memory.data(&guest.store) == wanted);
    }

    #[test]
    fn a_type_that_is_there_is_not_added_again() {
        let types = |declared: &str| {
            let text = format!(
                "(module {declared} (func (local i32)
                    local.get 0 local.get 0 local.get 0 memory.fill) (memory 1))"
            );
            let module = rewritten(&wat::parse_str(text).unwrap()).unwrap().unwrap();
            wasmtime::Module::new(&Engine::default(), &module).unwrap();
            Numbers::of(&module).unwrap().unwrap().types
        };
        assert_eq!(types(""), 2);
        assert_eq!(types("(type (func (param i32 i32)))"), 3);
        assert_eq!(types("(type (func (param i32 i32 i32) (result i32)))"), 3);
        assert_eq!(types("(type (func)) (type (func (param i32 i32 i32)))"), 2);
    }

    #[test]
    fn what_is_short_stays_as_it_is() {
        let filled = |length: &str| {
            let text = format!(
                "(module (memory 1) (func (param i32)
                    local.get 0 i32.const 7 {length} memory.fill))"
            );
            rewritten(&wat::parse_str(text).unwrap()).unwrap().is_some()
        };
        for (length, in_pieces) in [
            ("i32.const 0", false),
            ("i32.const 262144", false),
            ("i32.const 262145", true),
            ("i32.const -1", true),
            ("local.get 0", true),
            ("i32.const 8 nop", true),
        ] {
            assert_eq!(filled(length), in_pieces, "{length}");
        }
    }
}
