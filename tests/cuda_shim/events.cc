/* Streams and events as CUDA offers them. */
#include <algorithm>

#include "streams.h"

using namespace shim;

using Lock = std::unique_lock<std::mutex>;

/* For a question: done, not yet, or a failure on demand, which counts only what is answered. */
static cudaError_t answer(Streams &s, const ShimPoint &point)
{
	want(s, point);
	s.work.notify_all();
	return in_host_function || shim_lost() || reached(point) ? enter() : cudaErrorNotReady;
}

/* Also when it is made to fail: nothing runs any more that the caller has given up. */
static cudaError_t wait(Streams &s, Lock &lock, const ShimPoint &point)
{
	cudaError_t error = enter();

	if (error == cudaErrorNotPermitted)
		return error;
	shim_tally(SHIM_SYNCS);
	wait_for(s, lock, point);
	return error;
}

/* Priorities change no order that is promised, so nothing heeds them. */
cudaError_t cudaDeviceGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
	if (cudaError_t error = enter())
		return report(error);
	*leastPriority = 0;
	*greatestPriority = -5;
	return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
	return cudaStreamCreateWithPriority(pStream, flags, 0);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *pStream, unsigned int flags, int)
{
	if (cudaError_t error = enter())
		return report(error);
	if (!pStream || flags > cudaStreamNonBlocking)
		return report(cudaErrorInvalidValue);

	Streams &s = streams();
	Lock lock(s.mutex);
	auto stream = std::make_shared<CUstream_st>();

	stream->device = current_device();
	stream->with_default = flags == cudaStreamDefault;
	stream->is_default = false;
	s.known[stream.get()] = stream;
	s.all.push_back(stream);
	shim_own(1);
	*pStream = stream.get();
	return cudaSuccess;
}

/* What is on it still runs. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	cudaError_t error = enter();
	Streams &s = streams();
	Lock lock(s.mutex);
	auto found = s.known.find(stream);

	if (error == cudaErrorNotPermitted)
		return report(error);
	if (found == s.known.end())
		return report(error ? error : cudaErrorInvalidResourceHandle);
	auto gone = found->second;

	s.known.erase(found);
	if (gone->queue.empty())
		s.all.erase(std::find(s.all.begin(), s.all.end(), gone));
	shim_own(-1);
	return report(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	Streams &s = streams();
	Lock lock(s.mutex);
	auto found = find_stream(s, stream);

	if (!found)
		return report(cudaErrorInvalidResourceHandle);
	return report(wait(s, lock, {found, found->last}));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
	Streams &s = streams();
	Lock lock(s.mutex);
	auto found = find_stream(s, stream);

	if (!found)
		return report(cudaErrorInvalidResourceHandle);
	return report(answer(s, {found, found->last}));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
	if (cudaError_t error = enter())
		return report(error);

	Streams &s = streams();
	Lock lock(s.mutex);
	auto found = find_stream(s, stream);
	auto known = s.events.find(event);

	if (!found || known == s.events.end())
		return report(cudaErrorInvalidResourceHandle);
	if (flags)
		return report(cudaErrorInvalidValue);
	if (!reached(known->second->at)) {
		auto nothing = [] { return true; };

		add(s, found, {0, nothing, known->second->at, false, false, {}});
	}
	return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
	if (cudaError_t error = enter())
		return report(error);
	if (!event || flags > (cudaEventBlockingSync | cudaEventDisableTiming))
		return report(cudaErrorInvalidValue);

	Streams &s = streams();
	Lock lock(s.mutex);
	auto made = std::make_shared<CUevent_st>();

	made->timed = !(flags & cudaEventDisableTiming);
	made->device = current_device();
	s.events[made.get()] = made;
	shim_own(1);
	*event = made.get();
	return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	cudaError_t error = enter();
	Streams &s = streams();
	Lock lock(s.mutex);

	if (error == cudaErrorNotPermitted)
		return report(error);
	if (!s.events.erase(event))
		return report(error ? error : cudaErrorInvalidResourceHandle);
	shim_own(-1);
	return report(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	if (cudaError_t error = enter())
		return report(error);

	Streams &s = streams();
	Lock lock(s.mutex);
	auto found = find_stream(s, stream);
	auto known = s.events.find(event);

	if (!found || known == s.events.end() || known->second->device != found->device)
		return report(cudaErrorInvalidResourceHandle);
	auto when = std::make_shared<Clock::time_point>();
	auto stamp = [when] {
		*when = Clock::now();
		return true;
	};

	known->second->at = add(s, found, {0, stamp, {}, false, false, {}});
	known->second->when = when;
	return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
	Streams &s = streams();
	Lock lock(s.mutex);
	auto known = s.events.find(event);

	if (known == s.events.end())
		return report(cudaErrorInvalidResourceHandle);
	return report(answer(s, known->second->at));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	Streams &s = streams();
	Lock lock(s.mutex);
	auto known = s.events.find(event);

	if (known == s.events.end())
		return report(cudaErrorInvalidResourceHandle);
	ShimPoint at = known->second->at;

	return report(wait(s, lock, at));
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
	if (cudaError_t error = enter())
		return report(error);

	Streams &s = streams();
	Lock lock(s.mutex);
	auto a = s.events.find(start), b = s.events.find(end);

	if (a == s.events.end() || b == s.events.end() || !a->second->timed || !b->second->timed ||
		!a->second->when || !b->second->when)
		return report(cudaErrorInvalidResourceHandle);
	if (!reached(a->second->at) || !reached(b->second->at))
		return report(cudaErrorNotReady);
	*ms = std::chrono::duration<float, std::milli>(*b->second->when - *a->second->when).count();
	return cudaSuccess;
}
