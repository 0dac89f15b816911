defmodule BilldogEng.ClockTest do
  # The system's clock is stepped for one VM: by a library that is loaded before the system's own.
  use BilldogEng.ClientCase, async: true

  alias BilldogEng.VM

  @moduletag :tmp_dir

  # Eight hours later as soon as there is a file.
  @shim """
  #define _GNU_SOURCE
  #include <dlfcn.h>
  #include <stdlib.h>
  #include <time.h>
  #include <unistd.h>

  int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && access(getenv("STEPPED"), F_OK) == 0) time->tv_sec += 8 * 3600;
    return result;
  }
  """

  if match?({:unix, :linux}, :os.type()) and System.find_executable("cc") != nil do
    test "after a step of the system's clock an event has the system's time, not Erlang's", %{tmp_dir: dir} do
      source = Path.join(dir, "shim.c")
      shim = Path.join(dir, "shim.so")
      stepped = Path.join(dir, "stepped")
      File.write!(source, @shim)

      assert {_, 0} =
               System.cmd("cc", ["-shared", "-fPIC", "-o", shim, source, "-ldl"], stderr_to_stdout: true)

      collector = start_collector()

      script = """
      alias BilldogEng.Analytics
      opts = [api_key: "key", host: "#{Collector.url(collector)}", flush_interval: 3_600_000]
      {:ok, plain} = Analytics.start_link(opts)
      {:ok, hooked} = Analytics.start_link(Keyword.put(opts, :before_send, & &1))
      {:ok, test} = Analytics.start_link(mode: :test)
      BilldogEng.Test.Store.own(self())

      capture = fn clock ->
        before = clock.(:millisecond)
        for client <- [plain, hooked], do: Analytics.capture(client, "u", "e")
        Analytics.set_person_properties(test, "u", set: %{a: 1})
        later = clock.(:millisecond)
        for client <- [plain, hooked], do: :ok = Analytics.flush(client)
        update = List.last(BilldogEng.Test.Store.events(self(), test))
        IO.puts("\#{before} \#{later} \#{update["event_timestamp"]}")
      end

      capture.(&System.system_time/1)
      File.touch!("#{stepped}")
      capture.(&:os.system_time/1)
      IO.puts("apart by \#{:os.system_time(:second) - System.system_time(:second)}")
      System.halt(0)
      """

      vm = VM.start(script: script, env: [LD_PRELOAD: shim, STEPPED: stepped])
      assert {output, 0} = VM.ended(vm)
      assert [_, apart] = Regex.run(~r/apart by (\d+)/, output)
      assert String.to_integer(apart) > 3_600

      events = for event <- Collector.events(collector), do: event["event_timestamp"]

      times =
        for [_ | times] <- Regex.scan(~r/(\d+) (\d+) (\d+)/, output),
            do: Enum.map(times, &String.to_integer/1)

      assert [[_, _, _], [_, _, _]] = times

      for {[before, later, update], events} <- Enum.zip(times, Enum.chunk_every(events, 2)),
          time <- [update | events],
          do: assert(time in before..later)
    end
  end
end
