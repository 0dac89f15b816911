defmodule BilldogEng.AnalyticsTest do
  use BilldogEng.ClientCase, async: true

  import ExUnit.CaptureLog

  doctest BilldogEng
  doctest BilldogEng.Analytics
  doctest BilldogEng.Error

  # The original, as other nodes and older releases run it: what it is sent must be its own protocol.
  defmodule Original do
    use GenServer
    def init(test), do: {:ok, test}

    def handle_cast(message, test) do
      send(test, {:cast, message})
      {:noreply, test}
    end

    def handle_call(request, _from, test) when request in [:flush, :shutdown], do: {:reply, :ok, test}
    def handle_call(:queue_length, _from, test), do: {:reply, 3, test}
  end

  describe "servers" do
    test "captures take whatever GenServer.cast/2 takes" do
      collector = start_collector()
      name = :"#{__MODULE__}.#{System.unique_integer([:positive])}"
      start_supervised!({Registry, keys: :unique, name: __MODULE__.Registry})
      via = {:via, Registry, {__MODULE__.Registry, "client"}}

      for server <- [name, {:global, name}, via] do
        client = start_client(collector, name: server)
        Analytics.capture(server, "u", "by name")
        if is_atom(server), do: Analytics.capture({server, node()}, "u", "by name")
        assert Analytics.flush(server) == :ok
        assert Analytics.stats(server) == Analytics.stats(client)
        assert Analytics.queue_length(server) == 0
        assert Analytics.shutdown(server) == :ok
      end

      assert Collector.count(collector) == 4
    end

    test "captures to what is no client are harmless" do
      dead = spawn(fn -> :ok end)
      {:ok, client} = Analytics.start_link(api_key: "key", host: nobody(), shutdown_timeout: 0)
      GenServer.stop(client)

      for server <- [
            dead,
            client,
            self(),
            :unknown,
            {:global, :unknown},
            {:unknown, :nowhere@nohost},
            {:via, NoModule, 1},
            nil,
            "x",
            1,
            %{}
          ] do
        assert Analytics.capture(server, "u", "e") == :ok
        assert Analytics.capture(server, "u", "e", %{}, %{}, timestamp: 1) == :ok
        assert Analytics.identify(server, "u") == :ok
        assert Analytics.group_identify(server, "t", "k") == :ok
        assert Analytics.alias(server, "u", "v") == :ok
      end
    end

    test "calls to what is no client exit as GenServer.call/3 does" do
      dead = spawn(fn -> :ok end)
      ref = Process.monitor(dead)
      assert_receive {:DOWN, ^ref, _, _, _}

      for server <- [dead, :unknown], function <- [:flush, :queue_length, :shutdown, :stats] do
        assert {:noproc, {GenServer, :call, [^server | _]}} = catch_exit(apply(Analytics, function, [server]))
      end
    end

    test "an original in this VM is sent its own protocol and nothing else" do
      {:ok, original} = GenServer.start_link(Original, self())
      Analytics.capture(original, "u", "e", %{a: 1}, %{g: 1}, timestamp: 1)
      assert_receive {:cast, {:enqueue, "u", "e", {:with_groups, %{a: 1}, %{g: 1}}}}
      Analytics.identify(original, "u", %{a: 1})
      assert_receive {:cast, {:enqueue, "u", "$identify", {:raw, %{"$set" => %{a: 1}, a: 1}}}}
      assert Analytics.flush(original) == :ok
      assert Analytics.queue_length(original) == 3
    end

    test "the owner answers the original's protocol, and ignores the rest" do
      collector = start_collector()
      client = start_client(collector, group_type_index: %{"g" => 1})
      GenServer.cast(client, {:enqueue, "u", "grouped", {:with_groups, %{a: 1}, %{g: 2}}})
      GenServer.cast(client, {:enqueue, "u", "raw", {:raw, %{a: self()}}})
      GenServer.cast(client, :nonsense)
      send(client, :nonsense)
      send(client, {:DOWN, make_ref(), :process, self(), :normal})
      assert catch_exit(GenServer.call(client, :nonsense, 20))
      assert GenServer.call(client, :queue_length) == 2
      send(client, :flush_tick)
      eventually(fn -> Collector.count(collector) == 2 end)
      assert GenServer.call(client, :flush) == :ok
      assert GenServer.call(client, :shutdown) == :ok

      assert [
               %{"properties" => %{"a" => 1, "$groups" => %{"g" => 2}, "$group_1" => 2}},
               %{"properties" => %{"a" => "#PID" <> _}}
             ] = Collector.events(collector)
    end

    test "the struct of BilldogEng.new/2 is taken everywhere" do
      collector = start_collector()
      client = BilldogEng.new!("secret-key", host: Collector.url(collector), flush_at: 10)
      assert %BilldogEng{api_key: "secret-key", flags: nil, analytics: pid, transport: %{gzip: true}} = client
      assert is_pid(pid)
      assert BilldogEng.capture(client, "u", "e") == :ok
      assert BilldogEng.identify(client, "u", %{a: 1}) == :ok
      assert BilldogEng.group_identify(client, "company", "acme") == :ok
      assert BilldogEng.alias(client, "u", "v") == :ok
      assert Analytics.capture(client, "u", "e2") == :ok
      assert BilldogEng.queue_length(client) == 5
      assert BilldogEng.flush(client) == :ok
      assert BilldogEng.stats(client).delivered == 5
      assert BilldogEng.shutdown(pid) == :ok
      assert names(collector) == ["e", "$identify", "$groupidentify", "$create_alias", "e2"]
      refute inspect(client) =~ "secret"
    end
  end

  describe "terms" do
    test "of any kind, in any place, never raise and never keep an event from being sent" do
      collector = start_collector()
      client = start_client(collector)
      deep = Enum.reduce(1..10_000, 1, fn _, inner -> [inner] end)
      deep_map = Enum.reduce(1..10_000, 1, fn _, inner -> %{a: inner} end)

      terms = [
        nil,
        :atom,
        :"ünïcödé→",
        1,
        10 ** 400,
        -(10 ** 40),
        1.5,
        "text",
        <<255, 254>>,
        <<1::3>>,
        {1, {2}},
        [a: 1, a: 2],
        [1 | 2],
        [{:a, 1} | :b],
        self(),
        make_ref(),
        fn -> 1 end,
        &is_atom/1,
        hd(:erlang.ports()),
        1..3,
        ~D[2026-01-01],
        ~T[10:00:00],
        ~N[2026-01-01 10:00:00],
        ~U[2026-01-01 10:00:00Z],
        URI.parse("http://a/b"),
        Version.parse!("1.2.3"),
        MapSet.new([1, 2]),
        %{{1, 2} => 3, self() => 4, 1.5 => 5, nil => 6},
        %{__struct__: Nope},
        %{__struct__: 5},
        %ArgumentError{message: "m"},
        ~r/x/,
        deep,
        deep_map,
        %{Date => ~D[2026-01-01]},
        [nil: 1],
        "\0",
        String.duplicate("ß", 20_000),
        Enum.to_list(1..5_000),
        %{~D[2026-01-01] => 1},
        %{"a" => 1, a: 2},
        ~c""
      ]

      for term <- terms do
        assert Analytics.capture(client, term, "e") == :ok
        assert Analytics.capture(client, "u", term) == :ok
        assert Analytics.capture(client, "u", "e", term) == :ok
        assert Analytics.capture(client, "u", "e", %{}, term) == :ok
        assert Analytics.capture(client, "u", "e", %{a: term}, %{b: term}, timestamp: term) == :ok
        assert Analytics.identify(client, "u", term) == :ok
        assert Analytics.group_identify(client, term, term, term) == :ok
        assert Analytics.alias(client, term, term) == :ok
      end

      assert Analytics.flush(client) == :ok
      assert Collector.count(collector) == 8 * length(terms)
      assert %{captured: captured, delivered: captured} = Analytics.stats(client)
    end

    test "identify: what is neither map nor keyword list goes under $set" do
      collector = start_collector()
      client = start_client(collector)

      for properties <- [%{a: 1}, [a: 1], "text", ~D[2026-01-01], [1, 2]],
          do: Analytics.identify(client, "u", properties)

      assert Analytics.flush(client) == :ok

      assert for(event <- Collector.events(collector), do: event["properties"]) == [
               %{"$set" => %{"a" => 1}, "a" => 1},
               %{"$set" => %{"a" => 1}, "a" => 1},
               %{"$set" => "text"},
               %{"$set" => "2026-01-01"},
               %{"$set" => [1, 2]}
             ]
    end

    test "keyword lists serve as properties and groups" do
      collector = start_collector()
      client = start_client(collector, group_type_index: %{company: 0})
      Analytics.capture(client, "u", "e", [plan: :pro], company: "acme")
      Analytics.capture(client, "u", "e", [plan: :pro], [])
      assert Analytics.flush(client) == :ok

      assert for(event <- Collector.events(collector), do: event["properties"]) == [
               %{"plan" => "pro", "$groups" => %{"company" => "acme"}, "$group_0" => "acme"},
               %{"plan" => "pro"}
             ]
    end
  end

  describe "options" do
    test "an api key alone is enough" do
      assert {:ok, client} = Analytics.start_link(api_key: "key")
      assert Analytics.queue_length(client) == 0
    end

    test "those of the original take what it took" do
      transport =
        BilldogEng.Transport.config(host: nobody(), request_timeout: 100, gzip: true, max_retries: 0)

      for opts <- [
            [flush_at: :infinity, max_queue_size: :infinity],
            [flush_at: nil, max_queue_size: nil],
            [flush_at: 2.5, max_queue_size: 1_000.0],
            [group_type_index: [:not, "a map"]],
            [group_type_index: %{{1, 2} => 3, self() => 1, nil => 2, 1 => 1}],
            [enable_logging: nil]
          ] do
        base = [api_key: "key", transport: transport, flush_interval: 10_000, shutdown_timeout: 0]
        assert {:ok, client} = Analytics.start_link(Keyword.merge(base, opts))
        Analytics.capture(client, "u", "e")
        assert Analytics.stats(client).queued == 1
      end
    end

    test "a wrong value raises, with its name and what is expected" do
      for {option, value, accepted} <- [
            {:max_queue_bytes, 0, "bytes as a positive integer"},
            {:max_batch_size, "10", "a positive integer"},
            {:max_batch_size, 0, "a positive integer"},
            {:max_batch_bytes, :infinity, "bytes as a positive integer"},
            {:max_event_bytes, 1.0, "bytes as a positive integer"},
            {:max_spool_bytes, Integer.pow(2, 64), "bytes as a positive integer"},
            {:max_spool_age, 0, "milliseconds as a positive integer"},
            {:spool_sync, :never, ":interval or :always"},
            {:spool_dir, "", "the path of a directory as a string"},
            {:spool_dir, ~c"/tmp/spool", "the path of a directory as a string"},
            {:shutdown_timeout, -1, "milliseconds as a non-negative integer"},
            {:api_key, 1, "a string of UTF-8 without control characters"},
            {:api_key, "ke\ny", "a string of UTF-8 without control characters"},
            {:api_key, <<255>>, "a string of UTF-8 without control characters"},
            {:flush_interval, -1, "milliseconds as a non-negative integer"},
            {:flush_interval, "10", "milliseconds as a non-negative integer"},
            {:transport, [], "what BilldogEng.Transport.config/1 returns"},
            {:transport, %{host: "h"}, "an http:// or https:// address"},
            {:transport, %{host: "http://h", gzip: 1}, "true or false"},
            {:proxy, "proxy:3128", "an http:// or https:// address"},
            {:before_send, {Map, :no_such, []}, "a function of the event"},
            {:before_send, {Map, :get, [1 | 2]}, "a function of the event"},
            {:global_properties, {Map, :get, []}, "a map, a function"},
            {:host, "api.billdog.io", "an http:// or https:// address"},
            {:host, nil, "an http:// or https:// address"},
            {:request_timeout, 0, "milliseconds as a positive integer, or :infinity"},
            {:gzip, 1, "true or false"},
            {:insert_ids, nil, "true or false"},
            {:context, :yes, "true or false"},
            {:person_profiles, :some, ":always, :never, :identified_only or nil"},
            {:geoip_resolution_level, "a\nb", "a word"},
            {:geoip_resolution_level, true, "a word"},
            {:max_retries, -1, "a non-negative integer, or :infinity"},
            {:sleep_fn, fn -> 1 end, "a function of the milliseconds"},
            {:name, "name", "an atom"}
          ] do
        opts = Keyword.merge([api_key: "key"], [{option, value}])
        error = assert_raise ArgumentError, fn -> Analytics.start_link(opts) end
        part = if is_map(value), do: if(value[:gzip], do: :gzip, else: :host), else: option
        assert error.message =~ "invalid value for #{inspect(part)}: expected #{accepted}"

        unless option in [:api_key, :transport, :proxy] do
          assert error.message =~ "got: #{inspect(value)}"
          {:error, new} = BilldogEng.new("key", [{option, value}])
          assert %Error{code: "INVALID_OPTION"} = new
          assert new.message == error.message
        end
      end

      assert_raise ArgumentError, ~r/keyword list/, fn -> Analytics.start_link(%{api_key: "key"}) end
    end

    test "new/2 returns an error where start_link/1 raises" do
      for key <- [:key, 1, nil, "", " \n"] do
        assert {:error, %Error{code: "INVALID_OPTION", message: "invalid value for :api_key: " <> _}} =
                 BilldogEng.new(key)
      end

      assert_raise Error, ~r/:api_key: expected a string that is not blank/, fn -> BilldogEng.new!("") end
      assert {:error, %Error{code: "INVALID_OPTION"}} = BilldogEng.new("key", flush_interval: -1)
    end

    test "a host to which no request can be made raises, and so does such a proxy" do
      for {host, reason} <- [
            {"http://h?env=prod", "a query"},
            {"http://h/v1?key=s3cret", "a query"},
            {"http://h#s3cret", "a fragment"},
            {"http://h:99999", "its port"},
            {"http://h:0", "its port"},
            {"http://h:", "its port"},
            {"http://h:80a", "its port"},
            {"http://h:+1", "its port"},
            {"http://a b", "a space"},
            {" http://h", "a space"},
            {"http://h\n", "a space"},
            {"http://h\u00A0", "a space"},
            {"http:\\\\h", "a backslash"},
            {"http://[fe80::1%25eth0]", "a zone ID"},
            {"http://[fe80::1", "no closing bracket"},
            {"http://[::1]9", "its port"},
            {"http://[1.2.3.4]", "not an IPv6 address"},
            {"http://::1", "no host"},
            {"http://fe80::1", "its port"},
            {"http://", "no host"},
            {"http:///v1", "no host"},
            {"http://me:s3cret@", "no host"},
            {"http://me:s3cret@/v1", "no host"},
            {"me:s3cret@h", "http:// or https://"},
            {"//h", "http:// or https://"},
            {"ftp://h", "http:// or https://"},
            {"", "it is empty"},
            {"http://a..b", "an empty part"},
            {"http://a%20b", "a character that no host name has"},
            {<<"http://h", 255>>, "UTF-8"},
            {~c"http://h", "not a string"},
            {:h, "not a string"}
          ],
          option <- [:host, :proxy] do
        error =
          assert_raise ArgumentError, fn -> Analytics.start_link([{:api_key, "key"}, {option, host}]) end

        assert error.message =~
                 "invalid value for #{inspect(option)}: expected an http:// or https:// address"

        assert error.message =~ reason, inspect({host, error.message})
        refute error.message =~ "s3cret"
      end

      # By the parser of the native side, which finds more.
      for option <- [:host, :proxy], host <- ["http://256.1.1.1", "https://me:s3cret@xn--a-ecp.ru"] do
        error =
          assert_raise ArgumentError, fn -> Analytics.start_link([{:api_key, "key"}, {option, host}]) end

        assert error.message =~ "invalid value for #{inspect(option)}: "
        refute error.message =~ "s3cret"
      end
    end

    test "hosts with a port, a path, userinfo, brackets or letters beyond ASCII are accepted" do
      for host <- [
            "HTTP://localhost:4318",
            "http://127.0.0.1:1/",
            "https://api.billdog.io/v1/",
            "http://me:pass@localhost:9/v1/@x",
            "http://[::1]:9",
            "http://localhost./v1",
            "https://bücher.example"
          ] do
        assert {:ok, client} = Analytics.start_link(api_key: "key", host: host)
        GenServer.stop(client)
      end
    end

    test "a :cacertfile without a certificate that can be read raises" do
      path = Path.join(System.tmp_dir!(), "billdogeng_garbage_#{System.unique_integer([:positive])}.pem")
      on_exit(fn -> File.rm!(path) end)

      for inner <- ["", "AAAA\n", "no base64!\n"] do
        File.write!(path, "-----BEGIN CERTIFICATE-----\n#{inner}-----END CERTIFICATE-----\n")

        assert_raise ArgumentError, ~r/invalid value for :cacertfile: .*#{path}/, fn ->
          Analytics.start_link(api_key: "key", host: "https://h.invalid", cacertfile: path)
        end
      end
    end

    test "blanks around the key are taken off" do
      collector = start_collector(api_key: "key")

      for key <- [" key ", "key\n", "\tkey\r\n", fn -> "key\n" end, :" key"] do
        client = start_client(collector, api_key: key)
        Analytics.capture(client, "u", "e")
        assert Analytics.flush(client) == :ok
      end

      # Letters beyond ASCII are no control characters, byte for byte.
      assert {:ok, %{api_key: "k…ĀÀ"}} = BilldogEng.new("k…ĀÀ", host: nobody(), shutdown_timeout: 0)

      assert {:ok, %{api_key: "key"} = client} = BilldogEng.new("key\n", host: Collector.url(collector))
      BilldogEng.capture(client, "u", "e")
      assert BilldogEng.flush(client) == :ok
    end

    test "a term that an option was not made for has its effect named in one warning" do
      for {opts, effect} <- [
            {[flush_at: "50"],
             ~s(:flush_at: expected a number of events or :infinity, got: "50"; it has the) <>
               " effect of :infinity: no number of events makes a flush due"},
            {[max_queue_size: "50"], ~s(got: "50"; it has the effect of :infinity: only :max_queue_bytes)},
            {[enable_logging: "true"], ~s(got: "true"; it has the effect of false)},
            {[group_type_index: %{"company" => "0"}],
             ~s(got: %{"company" => "0"}; it has the effect of no number)},
            {[group_type_index: [company: 0]], "it has the effect of no number"}
          ] do
        log = capture_log(fn -> start_client(nobody(), opts) end)
        assert [_] = Regex.scan(~r/it has the effect/, log)
        assert log =~ effect
      end

      meant = [flush_at: nil, max_queue_size: 2.5, enable_logging: nil, group_type_index: %{"company" => 0}]
      refute capture_log(fn -> start_client(nobody(), meant) end) =~ "it has the effect"
    end

    test "unknown ones are ignored with one warning, those of the original's package silently" do
      log =
        capture_log(fn ->
          assert {:ok, _} =
                   Analytics.start_link(api_key: "key", hots: 2, flush_att: 1, local_evaluation: true)
        end)

      assert [_] = Regex.scan(~r/unknown options/, log)

      assert log =~
               "unknown options are ignored: :flush_att (did you mean :flush_at?), :hots (did you mean :host?)\n"
    end

    test "the key is in no inspect, state, or report" do
      secret = "very-secret-key"
      client = start_client(nobody(), api_key: secret)
      refute inspect(:sys.get_status(client), limit: :infinity) =~ secret
      refute inspect(Analytics.child_spec(api_key: secret)) =~ secret

      # The contents of supervisor reports: a child's arguments, and why it did not start.
      Process.flag(:trap_exit, true)
      children = [{Analytics, api_key: secret, flush_interval: :never}]
      assert {:error, reason} = Supervisor.start_link(children, strategy: :one_for_one)
      assert inspect(reason) =~ "invalid value for :flush_interval: expected milliseconds"
      refute inspect(reason, limit: :infinity, printable_limit: :infinity) =~ secret
      {:ok, supervisor} = Supervisor.start_link([{Analytics, api_key: secret}], strategy: :one_for_one)
      assert {:ok, child} = :supervisor.get_childspec(supervisor, Analytics)
      refute inspect(child, limit: :infinity, printable_limit: :infinity) =~ secret
      GenServer.stop(supervisor)
    end

    test "passwords of a host and a proxy are in no child spec, inspect, state or report" do
      Process.flag(:trap_exit, true)
      collector = start_collector()
      secret = "pa55word"
      address = String.replace(Collector.url(collector), "//", "//me:#{secret}@")
      transport = [host: address, request_timeout: 5_000, gzip: true, max_retries: 0]

      for opts <- [
            [host: address],
            [host: Collector.url(collector), proxy: address],
            [transport: BilldogEng.Transport.config(transport)],
            [transport: BilldogEng.Transport.config([proxy: address] ++ transport)]
          ],
          child <- [Analytics, BilldogEng] do
        opts = [api_key: "key", shutdown_timeout: 0] ++ opts
        {:ok, supervisor} = Supervisor.start_link([{child, opts}], strategy: :one_for_one)
        {:ok, spec} = :supervisor.get_childspec(supervisor, Analytics)
        [{_, client, _, _}] = Supervisor.which_children(supervisor)
        Analytics.capture(client, "u", "e")
        assert Analytics.flush(client) == :ok
        {:ok, struct} = BilldogEng.new("key", opts)
        wrong = {child, [flush_interval: :never] ++ opts}
        {:error, reason} = Supervisor.start_link([wrong], strategy: :one_for_one)

        refute inspect(struct) =~ secret

        for term <- [spec, :sys.get_status(client), reason] do
          refute inspect(term, limit: :infinity, printable_limit: :infinity) =~ secret
          refute "~p" |> :io_lib.format([term]) |> to_string() =~ secret
        end

        Supervisor.stop(supervisor)
      end

      assert Collector.count(collector) == 8
    end

    test "the key is in no error, whatever the options are" do
      Process.flag(:trap_exit, true)
      secret = "very-secret-key"

      shown = fn start ->
        try do
          start.() |> inspect(limit: :infinity, printable_limit: :infinity)
        rescue
          error -> Exception.format(:error, error, __STACKTRACE__)
        end
      end

      transport = %{host: nobody(), request_timeout: 1, gzip: true, max_retries: 0}

      for wrong <- [
            [transport: Map.put(transport, :cacertfile, [1_114_112])],
            [transport: Map.put(transport, :proxy, <<255>>)],
            [transport: Map.put(transport, :cacertfile, 1)],
            [cacertfile: <<255>>],
            %{host: nobody()},
            "words",
            [:improper | :list]
          ],
          start <- [
            &Analytics.start_link/1,
            &Analytics.child_spec/1,
            &BilldogEng.child_spec/1,
            &BilldogEng.new(secret, &1),
            &Supervisor.start_link([{Analytics, &1}], strategy: :one_for_one)
          ] do
        given =
          case wrong do
            [{_, _} | _] -> [api_key: secret] ++ wrong
            %{} -> Map.put(wrong, :api_key, secret)
            [_ | _] -> [{:api_key, secret} | :list]
            other -> other
          end

        output = shown.(fn -> start.(given) end)
        refute output =~ secret
        # A child spec looks at no option but the name.
        assert output =~ ~r/keyword list|expected|%{id: BilldogEng.Analytics/
      end

      # Past the checks of options, too.
      {:ok, options} = BilldogEng.Client.Options.parse(api_key: secret, host: nobody())
      options = put_in(options.native.cacertfile, 1)
      assert {:error, reason} = GenServer.start(BilldogEng.Client.Owner, {{:ok, options}, nil})
      assert %Error{code: "NOT_STARTED"} = reason
      refute inspect(reason) =~ secret

      {:error, error} =
        BilldogEng.Transport.request(Map.merge(transport, %{sleep_fn: & &1, cacertfile: 1}),
          headers: [{"x-api-key", secret}]
        )

      assert error.code == "INVALID_REQUEST"
      refute inspect(error) =~ secret
    end

    test "a :cacertfile may be a charlist, as paths are" do
      path = Path.join(System.tmp_dir!(), "billdogeng_roots_#{System.unique_integer([:positive])}.pem")
      File.write!(path, "-----BEGIN CERTIFICATE-----\n")
      on_exit(fn -> File.rm!(path) end)
      start_client(nobody(), cacertfile: String.to_charlist(path))
    end

    test "child specs have the name for their id, else the module" do
      assert Analytics.child_spec(api_key: "k").id == Analytics
      assert Analytics.child_spec(api_key: "k", name: {:global, :x}).id == {:global, :x}
    end
  end

  describe "logging" do
    test "with enable_logging, the original's lines, before flush/1 answers" do
      collector = start_collector()
      client = start_client(collector, enable_logging: true, max_queue_size: 2)

      log =
        capture_log(fn ->
          for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
          Collector.respond(collector, [{:status, 503}, :ok])
          assert {:error, _} = Analytics.flush(client)
          assert :ok = Analytics.flush(client)
        end)

      assert log =~ "[debug] [BilldogEng:analytics] max queue size exceeded, dropped 1 oldest event(s)\n"

      assert log =~
               "[debug] [BilldogEng:analytics] flush failed, re-queued 2 event(s): the collector answers so on request\n"

      assert log =~ "[debug] [BilldogEng:analytics] flushed 2 event(s)\n"
    end

    test "without it, nothing but the first drop of a reason" do
      collector = start_collector()
      client = start_client(collector, max_queue_size: 2)

      log =
        log_of(client, fn ->
          for n <- 1..3, do: Analytics.capture(client, "u", "e#{n}")
          assert :ok = Analytics.flush(client)
          for n <- 1..9, do: Analytics.capture(client, "u", "e#{n}")
          assert :ok = Analytics.flush(client)
          assert %{dropped: %{queue_full: 8}} = Analytics.stats(client)
        end)

      assert [["dropped 1 event (queue_full): the queue is at max_queue_size (2)"]] =
               Regex.scan(~r/dropped \d+ events? \(queue_full\): the queue is at \w+ \(\d+\)/, log)

      refute log =~ "[debug] [BilldogEng"
    end

    test "the limit in bytes is named if the queue has reached it" do
      client = start_client(nobody(), max_queue_bytes: 2_000)

      log =
        capture_log(fn ->
          for _ <- 1..3, do: Analytics.capture(client, "u", "e", %{text: String.duplicate("x", 900)})
          assert {:error, _} = Analytics.flush(client)
        end)

      assert log =~ "dropped 1 event (queue_full): the queue is at max_queue_bytes (2000); raise it"
    end
  end

  describe "a sleep_fn" do
    test "is called by a helper process with the plain delays, in place of the waits" do
      collector = start_collector()
      Collector.respond(collector, {:status, 503})
      test = self()
      client = start_client(collector, max_retries: 2, sleep_fn: &send(test, {:slept, self(), &1}))
      Analytics.capture(client, "u", "e")
      assert {:error, %Error{status: 503}} = Analytics.flush(client)
      assert_received {:slept, pid, 1_000}
      assert_received {:slept, _, 2_000}
      refute_received {:slept, _, _}
      assert pid not in [test, client]
    end

    # By no error, of which the VM logs a report at a time of its own.
    test "that exits costs neither client nor flush" do
      collector = start_collector()
      Collector.respond(collector, [{:status, 503}, :ok])
      client = start_client(collector, max_retries: 1, sleep_fn: fn _ -> exit(:no) end)
      Analytics.capture(client, "u", "e")
      assert Analytics.flush(client) == :ok
    end
  end

  describe "what was found by trying to break it:" do
    test "a :timestamp whose inspect throws costs its time, not the event" do
      client = start_client(nobody())

      capture_log(fn ->
        assert Analytics.capture(client, "u", "e", %{}, %{}, timestamp: %BilldogEng.Throwing{}) == :ok
      end)

      assert Analytics.stats(client).captured == 1
    end

    test "no key is in the error of an address or a key that is no text" do
      Process.flag(:trap_exit, true)

      log =
        capture_log(fn ->
          assert_raise ArgumentError, ~r/:host/, fn ->
            Analytics.start_link(api_key: "SECRET-12345", host: "http://h\xff")
          end

          for opts <- [
                [api_key: "SECRET-12345", transport: %{host: "http://\xff"}],
                [api_key: "SECRET-12345", transport: %{host: {1, 2}}],
                [api_key: "SECRET-12345\xff"]
              ] do
            error = assert_raise ArgumentError, fn -> Analytics.start_link(opts) end
            refute error.message =~ "SECRET"
          end
        end)

      refute log =~ "SECRET"
    end

    test "an encoder of the app's that gives what no ingest can read costs its value alone" do
      collector = start_collector()
      client = start_client(collector)

      capture_log(fn ->
        for json <- [~s("caf\xE9"), ~S("\ud800"), "1e999"] do
          Analytics.capture(client, "u", "e", %{value: %BilldogEng.Encoded{as: {:json, json}}, kept: 1})
        end

        assert Analytics.flush(client) == :ok
      end)

      for event <- Collector.events(collector) do
        assert %{"value" => "#Error<" <> _, "kept" => 1} = event["properties"]
      end

      assert Collector.count(collector) == 3
    end

    test "drops that were not logged yet are logged when the client has ended" do
      client = start_client(nobody(), max_queue_size: 10)
      for n <- 1..500, do: Analytics.capture(client, "u", "e#{n}")

      log =
        capture_log(fn ->
          GenServer.stop(client)
          drained(client)
        end)

      assert log =~ "captured 500, delivered 0, dropped 490 (queue_full), 10 (stopped)"
    end
  end
end
