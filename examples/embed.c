/* fastvsr inside an application in C: every upscaled frame of a video, in memory. As embed.rs and embed.py.
 *
 *     cc -o embed examples/embed.c $(pkg-config --cflags --libs gstreamer-app-1.0 gstreamer-video-1.0)
 *     ./embed examples/demo/clip.mp4
 *
 * Prints time, size and mean brightness of every frame. */
#include <gst/app/gstappsink.h>
#include <gst/video/video.h>

static void print_frame(GstSample *sample) {
    GstVideoInfo info;
    GstMapInfo map;
    gst_video_info_from_caps(&info, gst_sample_get_caps(sample));
    GstBuffer *buffer = gst_sample_get_buffer(sample);
    if (!gst_buffer_map(buffer, &map, GST_MAP_READ)) return;
    double sum = 0;
    for (gsize i = 0; i < map.size; i++) sum += map.data[i];
    g_print("%" G_GUINT64_FORMAT " ms: %dx%d, brightness %.2f\n", GST_BUFFER_PTS(buffer) / GST_MSECOND, info.width,
            info.height, sum / map.size);
    gst_buffer_unmap(buffer, &map);
}

int main(int argc, char **argv) {
    gst_init(&argc, &argv);
    if (argc < 2) g_error("expected a video file");
    GError *error = NULL;
    GstElement *pipeline = gst_parse_launch("filesrc name=file ! decodebin ! videoconvert ! fastvsr ! "
                                            "video/x-raw,format=RGB ! appsink name=frames sync=false", &error);
    if (error) g_error("%s", error->message); /* no element fastvsr: set GST_PLUGIN_PATH */
    GstElement *file = gst_bin_get_by_name(GST_BIN(pipeline), "file");
    GstElement *frames = gst_bin_get_by_name(GST_BIN(pipeline), "frames");
    g_object_set(file, "location", argv[1], NULL);

    gst_element_set_state(pipeline, GST_STATE_PLAYING);
    GstBus *bus = gst_element_get_bus(pipeline);
    GstMessage *message = NULL;
    while (!message) {
        GstSample *sample = gst_app_sink_try_pull_sample(GST_APP_SINK(frames), GST_SECOND / 10);
        if (sample) {
            print_frame(sample);
            gst_sample_unref(sample);
        } else if (!(message = gst_bus_pop_filtered(bus, GST_MESSAGE_ERROR)) && gst_app_sink_is_eos(GST_APP_SINK(frames))) {
            break;
        }
    }
    if (message) {
        gst_message_parse_error(message, &error, NULL);
        gst_message_unref(message);
    }
    if (error) g_printerr("Error: %s\n", error->message);
    gst_element_set_state(pipeline, GST_STATE_NULL);
    gst_object_unref(bus);
    gst_object_unref(file);
    gst_object_unref(frames);
    gst_object_unref(pipeline);
    return error != NULL;
}
