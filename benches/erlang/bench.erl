%% The same rows in Erlang/OTP. Prints the lines that the guest prints, see ../guest/src.
%%
%%   erl ... -run bench main ROW...            rows as name:number:number
%%
%% Remote rows start a second node and talk to it over unencrypted TCP, OTP's default; or, if BENCH_FLAGS says so,
%% over TLS.
-module(bench).
-export([main/1]).
-export([noop/0, fail/0, echo/0, sink/4, nursery/2, leader/0, sleeper/0, answer/1]).

main(Rows) ->
    process_flag(trap_exit, true),
    try [begin {Pid, Ref} = spawn_monitor(fun() -> run(Row) end),
               receive {'DOWN', Ref, process, Pid, normal} -> ok;
                       {'DOWN', Ref, process, Pid, Why} -> exit(Why) end
         end || Row <- Rows]
    catch Class:Error -> io:format(standard_error, "~p ~p~n", [Class, Error]), halt(1)
    end,
    halt(0).

run(Row) ->
    process_flag(trap_exit, true),
    [Name | Numbers] = string:lexemes(Row, ":"),
    Values = row(list_to_atom(Name), [list_to_integer(N) || N <- Numbers]),
    Pairs = [[",\"", atom_to_list(Unit), "\":", number(Value)] || {Unit, Value} <- Values],
    io:format("{\"row\":\"~s\"~s}~n", [Row, Pairs]).

number(Value) when is_integer(Value) -> integer_to_list(Value);
number(Value) -> float_to_list(Value, [{decimals, 3}]).

now_ns() -> erlang:monotonic_time(nanosecond).
since(Begun) -> (now_ns() - Begun) / 1.0e9.
rate(Count, Begun) -> {per_s, Count / since(Begun)}.

spread(Times) ->
    Sorted = lists:sort(Times), Count = length(Sorted),
    At = fun(Part) -> lists:nth(min(Count, trunc(Count * Part) + 1), Sorted) / 1000 end,
    [{p50_us, At(0.5)}, {p99_us, At(0.99)}].

repeat(0, _) -> ok;
repeat(N, F) -> F(), repeat(N - 1, F).

windowed(Total, Window, Start, Finish) ->
    First = min(Total, Window),
    repeat(First, Start),
    repeat(Total - First, fun() -> Finish(), Start() end),
    repeat(First, Finish).

%% ---- one node ------------------------------------------------------------------------------------------

row(local_spawn, [Count]) ->
    Me = self(), Begun = now_ns(),
    Work = fun() ->
        Map = maps:from_list([{["key ", integer_to_list(I)], ["value ", integer_to_list(I)]} || I <- [1, 2, 3, 4]]),
        Me ! {done, map_size(Map)}
    end,
    windowed(Count, 1000, fun() -> spawn(Work) end, fun() -> receive {done, 4} -> ok end end),
    [rate(Count, Begun)];
row(local_spawn_empty, [Count]) ->
    %% Nobody reports: a counter says when the last has run.
    Counter = counters:new(1, [atomics]), Begun = now_ns(),
    repeat(Count, fun() -> spawn(fun() -> counters:add(Counter, 1, 1) end) end),
    wait_count(Counter, Count),
    [rate(Count, Begun)];
row(local_link, [Count]) -> links(Count, 1000);
row(local_link_seq, [Count]) -> links(Count, 1);
row(local_ping, [Count]) ->
    Other = spawn(fun echo/0), Begun = now_ns(),
    pings(Other, Count),
    Values = [rate(Count, Begun)],
    exit(Other, kill),
    Values;
row(local_fanin, [Senders, Count]) ->
    Me = self(), Each = Count div Senders,
    Flood = fun() -> receive go -> repeat(Each, fun() -> Me ! {load, Each} end) end end,
    All = [spawn(Flood) || _ <- lists:seq(1, Senders)],
    Begun = now_ns(),
    [Pid ! go || Pid <- All],
    repeat(Each * Senders, fun() -> receive {load, _} -> ok end end),
    [rate(Each * Senders, Begun)];
row(local_backlog, [Backlog, Count]) ->
    Me = self(),
    repeat(Backlog, fun() -> Me ! {other, Me} end),
    Once = fun() ->
        Begun = now_ns(),
        Me ! {load, Me},
        receive {load, _} -> ok end,
        now_ns() - Begun
    end,
    First = Once(),
    Times = [Once() || _ <- lists:seq(1, Count)],
    spread(Times) ++ [{first_us, First / 1000}];
row(local_idle, [Count]) ->
    io:format("{\"phase\":\"before\"}~n"), timer:sleep(500),
    Me = self(), Begun = now_ns(),
    All = [spawn(fun() -> Me ! up, receive load -> Me ! done end end) || _ <- lists:seq(1, Count)],
    repeat(Count, fun() -> receive up -> ok end end),
    Values = [rate(Count, Begun), {alive, Count}],
    timer:sleep(500),
    io:format("{\"phase\":\"alive\"}~n"), timer:sleep(500),
    [Pid ! load || Pid <- All],
    repeat(Count, fun() -> receive done -> ok end end),
    Values;

%% ---- two nodes -----------------------------------------------------------------------------------------

row(remote_ping, [Size, Count]) ->
    with_peer(fun(Node, _) ->
        spread(round_trips(Node, Size, Count))
    end);
row(remote_oneway, [Size, Count]) -> with_peer(fun(Node, _) -> one_way(Node, Size, Count, Count) end);
row(remote_bulk, [Size, Count]) -> with_peer(fun(Node, _) -> one_way(Node, Size, Count, 2) end);
row(remote_beside, [Size, Count]) ->
    with_peer(fun(Node, _) ->
        Me = self(),
        Stream = spawn(fun() -> stream(Me, Node, Size) end),
        receive streaming -> ok end,
        Times = round_trips(Node, 64, Count),
        Stream ! stop,
        receive {streamed, Seen, Seconds} -> ok end,
        spread(Times) ++ [{mib_per_s, Seen * Size / 1048576 / Seconds}]
    end);
row(remote_spawn_seq, [Count]) ->
    with_peer(fun(Node, _) ->
        Begun = now_ns(),
        repeat(Count, fun() -> spawn(Node, ?MODULE, noop, []) end),
        [rate(Count, Begun)]
    end);
row(remote_spawn, [Count, Window]) ->
    with_peer(fun(Node, _) ->
        Begun = now_ns(),
        windowed(Count, Window,
            fun() -> spawn_request(Node, ?MODULE, noop, [], []) end,
            fun() -> receive {spawn_reply, _, ok, _} -> ok end end),
        [rate(Count, Begun)]
    end);
row(remote_spawn_link, [Count, Window]) ->
    with_peer(fun(Node, _) ->
        Begun = now_ns(),
        windowed(Count, Window,
            fun() -> spawn_request(Node, ?MODULE, fail, [], [link, {reply, no}]) end,
            fun() -> receive {'EXIT', _, failed} -> ok end end),
        [rate(Count, Begun)]
    end);
row(remote_link_seq, [Count]) ->
    %% A link has no reply here: one round trip behind it is what it takes to know.
    with_peer(fun(Node, _) ->
        All = sleepers(Node, Count), Begun = now_ns(),
        [begin link(Pid), confirm(Pid) end || Pid <- All],
        [rate(Count, Begun)]
    end);
row(remote_link, [Count, _]) ->
    with_peer(fun(Node, _) ->
        All = sleepers(Node, Count), Begun = now_ns(),
        [link(Pid) || Pid <- All],
        [Pid ! {ping, self()} || Pid <- All],
        [receive {pong, Pid} -> ok end || Pid <- All],
        [rate(Count, Begun)]
    end);
row(remote_fanout, [Count]) ->
    with_peer(fun(Node, _) ->
        Leader = spawn(Node, ?MODULE, leader, []),
        follow([Leader || _ <- lists:seq(1, Count)]),
        timer:sleep(300),
        Begun = now_ns(),
        Leader ! load,
        repeat(Count, fun() -> receive {told, _} -> ok end end),
        [{ms, since(Begun) * 1000}]
    end);
row(remote_sigkill, [Count]) ->
    with_peer(fun(Node, System) ->
        follow(sleepers(Node, Count)),
        %% A shell that stands by, so that the signal is one write away.
        Shell = open_port({spawn_executable, "/bin/sh"}, [use_stdio, binary]),
        timer:sleep(300),
        Begun = now_ns(),
        port_command(Shell, ["kill -9 ", System, "\n"]),
        Times = lists:sort([receive {told, At} -> At end || _ <- lists:seq(1, Count)]),
        port_close(Shell),
        [{first_ms, (hd(Times) - Begun) / 1.0e6}, {last_ms, (lists:last(Times) - Begun) / 1.0e6}]
    end);
row(remote_concurrent, [Callers, Each]) ->
    with_peer(fun(Node, _) ->
        Me = self(), Begun = now_ns(),
        [spawn(fun() ->
            repeat(Each, fun() -> spawn(Node, ?MODULE, answer, [self()]) end),
            Heard = lists:usort([receive {here, Pid} -> Pid end || _ <- lists:seq(1, Each)]),
            Me ! {done, length(Heard)}
         end) || _ <- lists:seq(1, Callers)],
        Done = lists:sum([receive {done, N} -> N end || _ <- lists:seq(1, Callers)]),
        Done = Callers * Each,
        [rate(Done, Begun), {spawned, Done}]
    end).

%% ---- parts ---------------------------------------------------------------------------------------------

noop() -> ok.
fail() -> exit(failed).
echo() -> receive {From, Bytes} -> From ! Bytes, echo() end.
leader() -> receive load -> exit(failed) end.
sleeper() -> receive {ping, From} -> From ! {pong, self()}, sleeper() end.
answer(To) -> To ! {here, self()}.

wait_count(Counter, Count) ->
    case counters:get(Counter, 1) of
        Count -> ok;
        _ -> erlang:yield(), wait_count(Counter, Count)
    end.

links(Count, Window) ->
    Begun = now_ns(),
    windowed(Count, Window,
        fun() -> spawn_link(fun() -> exit(failed) end) end,
        fun() -> receive {'EXIT', _, failed} -> ok end end),
    [rate(Count, Begun)].

pings(_, 0) -> ok;
pings(Other, N) -> Other ! {self(), N}, receive N -> pings(Other, N - 1) end.

confirm(Pid) -> Pid ! {ping, self()}, receive {pong, Pid} -> ok end.

sink(Parent, Size, Count, Every) -> sink(Parent, Size, Count, Every, 1).
sink(_, _, Count, _, Number) when Number > Count -> ok;
sink(Parent, Size, Count, Every, Number) ->
    receive Bytes when byte_size(Bytes) =:= Size -> ok end,
    if Number rem Every =:= 0; Number =:= Count -> Parent ! {seen, Number}; true -> ok end,
    sink(Parent, Size, Count, Every, Number + 1).

round_trips(Node, Size, Count) ->
    Other = spawn(Node, ?MODULE, echo, []), Bytes = binary:copy(<<1>>, Size),
    Once = fun(Number) ->
        Begun = now_ns(),
        Other ! {self(), {Number, Bytes}},
        receive {Number, _} -> ok end,
        now_ns() - Begun
    end,
    [Once(N) || N <- lists:seq(1, Count div 10)],
    [Once(N) || N <- lists:seq(1, Count)].

one_way(Node, Size, Count, Window) ->
    Every = case Window of Count -> Count; _ -> 1 end,
    Other = spawn(Node, ?MODULE, sink, [self(), Size, Count, Every]),
    Bytes = binary:copy(<<7>>, Size), Begun = now_ns(),
    First = min(Window, Count),
    repeat(First, fun() -> Other ! Bytes end),
    repeat(Count - First, fun() -> receive {seen, _} -> ok end, Other ! Bytes end),
    wait_seen(Count),
    {per_s, Rate} = rate(Count, Begun),
    [{per_s, Rate}, {mib_per_s, Rate * Size / 1048576}].

%% Keeps two messages under way until it is told to stop.
stream(Parent, Node, Size) ->
    Sink = spawn(Node, ?MODULE, sink, [self(), Size, 1 bsl 60, 1]),
    Bytes = binary:copy(<<7>>, Size), Begun = now_ns(),
    Sink ! Bytes, Sink ! Bytes,
    Seen = stream_on(Parent, Sink, Bytes, 0),
    Parent ! {streamed, Seen, since(Begun)},
    exit(Sink, kill).

stream_on(Parent, Sink, Bytes, Seen) ->
    receive
        stop -> Seen;
        {seen, Number} ->
            if Number =:= 1 -> Parent ! streaming; true -> ok end,
            Sink ! Bytes,
            stream_on(Parent, Sink, Bytes, Number)
    end.

wait_seen(Count) -> receive {seen, Count} -> ok; {seen, _} -> wait_seen(Count) end.

nursery(Parent, Count) ->
    Parent ! {sleepers, [spawn(?MODULE, sleeper, []) || _ <- lists:seq(1, Count)]}.

sleepers(Node, Count) ->
    spawn(Node, ?MODULE, nursery, [self(), Count]),
    receive {sleepers, All} -> All end.

follow(Leaders) ->
    Me = self(),
    Follow = fun(Leader) ->
        process_flag(trap_exit, true), link(Leader), Me ! up,
        receive {'EXIT', Leader, _} -> Me ! {told, now_ns()} end,
        receive done -> ok end
    end,
    [spawn(fun() -> Follow(Leader) end) || Leader <- Leaders],
    [receive up -> ok end || _ <- Leaders].

with_peer(F) ->
    {ok, Peer, Node} = peer:start(#{
        name => peer:random_name(), host => "127.0.0.1", longnames => true, connection => standard_io,
        args => ["-pa", filename:dirname(code:which(?MODULE)), "-setcookie", atom_to_list(erlang:get_cookie()),
                 "-start_epmd", "false", "-kernel", "logger_level", "critical", "+P", "2000000"
                 | string:lexemes(os:getenv("BENCH_FLAGS", ""), " ")]}),
    true = net_kernel:connect_node(Node),
    System = erpc:call(Node, os, getpid, []),
    Values = F(Node, System),
    catch peer:stop(Peer),
    Values.
